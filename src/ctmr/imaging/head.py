"""Where the head is, in an image and in a volume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_closing

from ctmr.imaging.image import Scan
from ctmr.imaging.volume import Volume, canonical, like
from ctmr.types import BoolArray, FloatArray, Matrix, Modality

RADIUS = 0.03  # of the disk of `head_mask`, in parts of the short side: 8 pixels of 256


def head_mask(
    image: FloatArray,
    threshold: float | None,
    *,
    radius: float | None = None,
    spacing: Sequence[float] | None = None,
) -> BoolArray:
    """Where the head is: one filled region, with the skull, the sinuses and the ventricles.

    Pixels above the threshold are closed by a disk of 3 % of the short side, which joins scalp and brain over a skull
    that is dark in MR and shuts sinuses that open outwards; holes are filled; an opening by the same disk cuts off a
    head rest; the largest component is kept.

    Args:
        image: Slice (H, W) or volume, in HU or grey values.
        threshold: Lowest value of tissue (about -300 for HU); None takes Otsu's (1979).
        radius: Of the disk or ball, in the unit of `spacing`.
        spacing: Size of a pixel along each axis; 1 by default.

    Returns:
        Mask of the same shape; all False where nothing is above the threshold or the image is constant.
    """
    if threshold is None:
        if image.min() == image.max():
            return np.zeros(image.shape, dtype=np.bool_)
        threshold = float(threshold_otsu(image))
    tissue = image > threshold
    if not tissue.any():
        return tissue
    if radius is None:
        radius = max(1, round(RADIUS * min(image.shape)))
    spacing = (1.0,) * image.ndim if spacing is None else spacing
    filled = ndimage.binary_fill_holes(_closed(tissue, radius, spacing))
    opened = ~_closed(~filled, radius, spacing)
    labels, count = ndimage.label(opened if opened.any() else filled)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.asarray(labels == 1 + sizes.argmax())


def _distances(mask: BoolArray, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Of each pixel from the nearest one in the mask."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))


def _closed(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """The closing of a mask by a ball; the image goes on beyond its border as it ends there."""
    closed = np.zeros_like(mask)
    if not mask.any():
        return closed
    # No closing reaches beyond the box about a mask; one pixel more says that it ends there.
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(0, its.start - 1), its.stop + 1) for its in found)
    around = [math.ceil(radius / side) + 1 for side in spacing]
    padded = np.pad(mask[box], [(pixels, pixels) for pixels in around], mode="edge")
    shrunk = isotropic_closing(padded, radius, spacing=spacing)
    closed[box] = shrunk[tuple(slice(pixels, -pixels) for pixels in around)]
    return closed


NODE_MM = 2.0  # of the grid on which the head is looked for
# Gaps up to twice this are closed, and what is thinner is cut off: in MR that joins scalp and brain over the dark skull,
# in CT it must not reach from the head to the table.
RADIUS_MM: dict[Modality, float] = {"ct": 3.0, "mr": 8.0}
HEAD_ABOVE_HU = -300.0  # between air and fat
TOP_MM2 = 500.0  # head in the slice that counts as its top


@dataclass(frozen=True, eq=False)
class HeadRegion:
    """Where the head is in a canonical volume, found on a coarse grid of every n-th voxel.

    Attributes:
        coarse: Mask on the coarse grid.
        steps: Voxels from one node of that grid to the next, along I, J, K.
        values: Values of the volume at the nodes in the mask, in its unit.
        top: Index K of the highest slice that shows some head.
        areas_mm2: Area of the head in each slice, (K,).
    """

    coarse: BoolArray
    steps: tuple[int, int, int]
    values: FloatArray
    top: int
    areas_mm2: Matrix

    def mask(self, shape: tuple[int, int, int]) -> BoolArray:
        """The mask (I, J, K) on the grid of the volume, a node larger all around, so that no skin is lost."""
        wider = ndimage.binary_dilation(self.coarse, np.ones((3, 3, 1), dtype=np.bool_))
        nodes = [
            np.minimum((np.arange(count) + step // 2) // step, coarse - 1)
            for count, step, coarse in zip(shape, self.steps, wider.shape, strict=True)
        ]
        return np.asarray(wider[np.ix_(*nodes)])


def find_head(volume: Volume, modality: Modality) -> HeadRegion | None:
    """The head in a canonical volume: one filled region above a threshold; None if there is nothing.

    The threshold is -300 HU for CT; for MR it lies at 15 % of the way from the 2nd to the 98th percentile. What is thinner
    than a head rest is cut off, and all but the largest region left out.
    """
    steps = tuple(max(1, round(NODE_MM / mm)) for mm in volume.spacing_mm)
    coarse = np.ascontiguousarray(volume.array[:: steps[0], :: steps[1], :: steps[2]])
    # Rounded, since a header holds 2 mm as 2.0000001: NIfTI and DICOM of one head give one mask.
    spacing = [round(step * mm, 3) for step, mm in zip(steps, volume.spacing_mm, strict=True)]
    threshold = HEAD_ABOVE_HU
    if modality == "mr":
        low, high = np.percentile(coarse, (2, 98))
        threshold = float(low + 0.15 * (high - low))
    mask = head_mask(coarse, threshold, radius=RADIUS_MM[modality], spacing=spacing)
    areas = mask.sum(axis=(0, 1)) * spacing[0] * spacing[1]
    nodes = np.minimum(
        (np.arange(volume.array.shape[2]) + steps[2] // 2) // steps[2], coarse.shape[2] - 1
    )
    shown = np.flatnonzero(areas[nodes] >= TOP_MM2)
    if shown.size == 0:
        return None
    return HeadRegion(
        coarse=mask,
        steps=(steps[0], steps[1], steps[2]),
        values=coarse[mask],
        top=int(shown[-1]),
        areas_mm2=areas[nodes].astype(np.float64),
    )


def head_of_scan(scan: Scan, modality: Modality) -> BoolArray:
    """The head mask of one scan on its own grid; all False where there is no head.

    Of an image above -300 HU or Otsu's threshold, of a volume what `find_head` finds.
    """
    if isinstance(scan, Volume):
        upright = canonical(scan)
        head = find_head(upright, modality)
        if head is None:
            return np.zeros(scan.array.shape, dtype=np.bool_)
        return like(head.mask(upright.array.shape).astype(np.float32), scan) > 0
    return head_mask(scan.grey, HEAD_ABOVE_HU if scan.unit == "HU" else None)
