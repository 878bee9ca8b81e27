"""Regions of a scan: where the head is, and how well two masks agree."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from ctmr.intensity import BoolArray, FloatArray

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


def dice(result: BoolArray, truth: BoolArray) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|), in [0, 1]: 0 if one mask is empty, nan if both are.

    Raises:
        ValueError: If the shapes differ.
    """
    _require_one_shape(result, truth)
    both = int(result.sum()) + int(truth.sum())
    return 2 * int((result & truth).sum()) / both if both else math.nan


def hd95(result: BoolArray, truth: BoolArray, spacing: Sequence[float] | None = None) -> float:
    """95 % Hausdorff distance of the surfaces of two masks, in the unit of `spacing`.

    The larger of two 95th percentiles: of the distances from the surface of one to the nearest point of the other's,
    and back. The surface is made of the mask's pixels that touch others along an axis, or the border of the image.

    Args:
        result: Mask (H, W) or (I, J, K).
        truth: Of the same shape.
        spacing: Size of a pixel along each axis; 1 by default.

    Returns:
        The diagonal of the image if one mask is empty, nan if both are.

    Raises:
        ValueError: If the shapes differ.
    """
    _require_one_shape(result, truth)
    spacing = (1.0,) * result.ndim if spacing is None else spacing
    if not result.any() and not truth.any():
        return math.nan
    if not result.any() or not truth.any():
        return math.hypot(*np.multiply(spacing, result.shape))
    box = ndimage.find_objects((result | truth).view(np.uint8))[0]
    first, second = _surface(result[box]), _surface(truth[box])
    there = np.percentile(_distances(second, spacing)[first], 95)
    back = np.percentile(_distances(first, spacing)[second], 95)
    return float(max(there, back))


def _require_one_shape(result: BoolArray, truth: BoolArray) -> None:
    if result.shape != truth.shape:
        raise ValueError(f"both masks must have one shape: got {result.shape} and {truth.shape}")


def _surface(mask: BoolArray) -> BoolArray:
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


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
    shrunk = ~_grown(~_grown(padded, radius, spacing), radius, spacing)
    closed[box] = shrunk[tuple(slice(pixels, -pixels) for pixels in around)]
    return closed


def _grown(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """The mask and all within the radius of it."""
    if not mask.any():
        return mask
    return np.asarray(_distances(mask, spacing) <= radius)
