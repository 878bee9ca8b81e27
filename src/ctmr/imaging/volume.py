"""A scan on a regular grid in the patient's space: axes to RAS+ and back, and axial slices."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError
from ctmr.types import Encoding, FloatArray, Matrix, Modality

Value = TypeVar("Value", bound=np.generic)
SAME_MM = 0.01  # grids that differ by less are the same
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
        unit: What a user vouched for: HU of a CT, or grey values of one; None where the modality says it.
    """

    array: FloatArray
    affine: Matrix
    modality: Modality | None = None
    forms: Forms | None = field(default=None, repr=False)
    unit: Literal["HU", "grey"] | None = None

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
        """What decides the map of its values to [-1, 1]: HU of a CT if it has them, else MR units."""
        if self.modality != "ct":
            return "MR"
        return self.unit or "HU"

    @cached_property
    def axes(self) -> tuple[str, str, str]:
        """Where I, J and K run, to the nearest axis: R or L, A or P, S or I."""
        return axes_of(self.affine)

    @property
    def grey(self) -> FloatArray:
        """(I, J, K): the array, as a volume has no colours."""
        return self.array

    def upright(self) -> "Volume":
        """The volume with its axial slices along K; see `canonical`."""
        return canonical(self)

    def like(self, array: FloatArray) -> FloatArray:
        """An array on the grid of `upright()` with its axes as this volume has them."""
        return like(array, self)

    def axial(self, array: NDArray[Value]) -> NDArray[Value]:
        """The axial slices (K, rows, columns) of an array on the volume's grid."""
        return axial_slices(_along_axes(array, self.affine))

    def from_axial(self, slices: FloatArray) -> FloatArray:
        """The inverse of `axial`."""
        return like(from_axial_slices(slices), self)

    def with_values(self, array: FloatArray, encoding: Encoding, modality: Modality) -> "Volume":
        """The volume with the values of a modality."""
        unit: Literal["grey"] | None = "grey" if encoding == "grey" else None
        return replace(self, array=array, modality=modality, unit=unit)


# Functions import nibabel, which takes half a second, when a volume is there: a picture needs none.


def axes_of(affine: Matrix) -> tuple[str, str, str]:
    """Where I, J and K run, to the nearest axis: R or L, A or P, S or I."""
    from nibabel.orientations import aff2axcodes

    i, j, k = aff2axcodes(affine)
    return str(i), str(j), str(k)


def _along_axes(array: NDArray[Value], affine: Matrix) -> NDArray[Value]:
    """The array with I to the right, J to the front and K up, as nearly as permuting and flipping axes allows."""
    from nibabel.orientations import apply_orientation, io_orientation

    turned: NDArray[Value] = apply_orientation(array, io_orientation(affine))
    return turned


def canonical(volume: Volume) -> Volume:
    """The volume with I to the right, J to the front and K up, as nearly as permuting and flipping axes allows."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    array = _along_axes(volume.array, volume.affine)
    affine = volume.affine @ inv_ornt_aff(io_orientation(volume.affine), volume.array.shape)
    return Volume(np.ascontiguousarray(array), affine, volume.modality, unit=volume.unit)


def like(array: FloatArray, volume: Volume) -> FloatArray:
    """An array on the grid of `canonical(volume)`, with its axes as `volume` has them."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    back = ornt_transform(RAS, io_orientation(volume.affine))
    return np.ascontiguousarray(apply_orientation(array, back))


def axial_slices(array: NDArray[Value]) -> NDArray[Value]:
    """(I, J, K) of a canonical volume -> (K, rows, columns): front at the top, the patient's right at the left."""
    return np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0))


def from_axial_slices(slices: FloatArray) -> FloatArray:
    """The inverse of `axial_slices`, a view."""
    return slices.transpose(2, 1, 0)[::-1, ::-1]


def resampled_onto(volume: Volume, target: Volume) -> Volume:
    """The volume on another grid in the same space, trilinear; what lies beyond it has its lowest value."""
    from nibabel import Nifti1Image
    from nibabel.processing import resample_from_to

    source = Nifti1Image(volume.array, volume.affine)
    lowest = float(volume.array.min())
    moved = resample_from_to(source, (target.array.shape, target.affine), order=1, cval=lowest)
    array = np.asarray(moved.dataobj, np.float32)
    return Volume(array, target.affine, volume.modality, target.forms, volume.unit)


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
    return Volume(array, target.affine, volume.modality, target.forms, volume.unit)
