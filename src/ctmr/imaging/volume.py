"""A scan on a regular grid in the patient's space: axes to RAS+ and back, axial slices, the head in it."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from scipy import ndimage

from ctmr.errors import DataError
from ctmr.intensity import BoolArray, Encoding, FloatArray
from ctmr.regions import head_mask

Modality = Literal["ct", "mr"]
MODALITIES: tuple[Modality, ...] = ("ct", "mr")
Matrix = NDArray[np.float64]

NODE_MM = 2.0  # of the grid on which the head is looked for
# Gaps up to twice this are closed, and what is thinner is cut off: in MR that joins scalp and brain over the dark skull,
# in CT it must not reach from the head to the table.
RADIUS_MM: dict[Modality, float] = {"ct": 3.0, "mr": 8.0}
HEAD_ABOVE_HU = -300.0  # between air and fat
SAME_MM = 0.01  # grids that differ by less are the same
TOP_MM2 = 500.0  # head in the slice that counts as its top
RAS = np.array(
    [[0, 1], [1, 1], [2, 1]]
)  # orientation of an array whose axes run to right, front, top


@dataclass(frozen=True, eq=False)
class Forms:
    """The two matrices a NIfTI header holds, each with its code (0: not given)."""

    qform: Matrix
    qform_code: int
    sform: Matrix
    sform_code: int


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan on a regular grid.

    Attributes:
        array: (I, J, K) float32: HU of a CT, scanner units of an MR.
        affine: Voxel indices -> mm, (4, 4), RAS+; it may be sheared (gantry tilt).
        modality: None where nothing says what it is (a NIfTI file does not).
        forms: Both matrices of the NIfTI header it comes from.
    """

    array: FloatArray
    affine: Matrix
    modality: Modality | None = None
    forms: Forms | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.dtype != np.float32:
            raise ValueError(
                f"array must be (I, J, K) float32: got {self.array.shape} {self.array.dtype}"
            )
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"affine must be (4, 4) and finite: got {self.affine!r}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ValueError(f"affine must not be singular: got {self.affine!r}")

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.array.shape))
        mm = " x ".join(f"{side:.4g}" for side in self.spacing_mm)
        return f"Volume({self.modality or 'CT or MR'}, {size}, {mm} mm, {''.join(self.axes)})"

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along I, J and K."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def encoding(self) -> Encoding:
        """What decides the map of its values to [-1, 1]: HU of a CT, else MR units."""
        return "HU" if self.modality == "ct" else "MR"

    @cached_property
    def axes(self) -> tuple[str, str, str]:
        """Where I, J and K run, to the nearest axis: R or L, A or P, S or I."""
        i, j, k = aff2axcodes(self.affine)
        return str(i), str(j), str(k)


def canonical(volume: Volume) -> Volume:
    """The volume with I to the right, J to the front and K up, as nearly as permuting and flipping axes allows."""
    orientation = io_orientation(volume.affine)
    array = apply_orientation(volume.array, orientation)
    affine = volume.affine @ inv_ornt_aff(orientation, volume.array.shape)
    return Volume(np.ascontiguousarray(array), affine, volume.modality)


def like(array: FloatArray, volume: Volume) -> FloatArray:
    """An array on the grid of `canonical(volume)`, with its axes as `volume` has them."""
    back = ornt_transform(RAS, io_orientation(volume.affine))
    return np.ascontiguousarray(apply_orientation(array, back))


def axial_slices(array: FloatArray) -> FloatArray:
    """(I, J, K) of a canonical volume -> (K, rows, columns): front at the top, the patient's right at the left."""
    return np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0))


def from_axial_slices(slices: FloatArray) -> FloatArray:
    """The inverse of `axial_slices`."""
    return np.ascontiguousarray(slices.transpose(2, 1, 0)[::-1, ::-1])


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


def onto_grid(volume: Volume, target: Volume) -> Volume:
    """The volume with its axes and its grid as `target` has them, which must be the same voxels in another order.

    Raises:
        DataError: If they are not: the grids differ by more than 0.01 mm anywhere.
    """
    first, second = canonical(volume), canonical(target)
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(first.array.shape) - 1
    same = first.array.shape == second.array.shape
    apart = float(np.abs((first.affine - second.affine) @ corners.T).max())
    if not same or apart > SAME_MM:
        away = f", up to {apart:.4g} mm away" if same else ""
        raise DataError(
            f"expected the grid of {target!r}: found {volume!r}{away}",
            fix="bring both onto one grid, or name the scan that this one was made of",
        )
    array = like(first.array, target)
    return Volume(array, target.affine, volume.modality, target.forms)
