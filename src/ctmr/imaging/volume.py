"""A scan on a regular grid in the patient's space: axes to RAS+ and back, axial slices, other libraries' images."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError, SafetyError, UsageError
from ctmr.types import Encoding, FloatArray, Matrix, Modality

if TYPE_CHECKING:
    import SimpleITK
    from nibabel import Nifti1Image
    from nibabel.spatialimages import SpatialImage

Value = TypeVar("Value", bound=np.generic)
SAME_MM = 0.01  # grids that differ by less are the same
BRAIN_HU = (0.0, 80.0)  # the radiologist's brain window: width 80, level 40
SHOWN_MR = (0.0, 1000.0)  # a head's values, where 1000 stands for their 99.5 percentile
PIECE = 2**16  # values that are looked at together
MAX_COSINE = 1e-4  # between two axes at right angles: 0.006 degrees off
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+ mm -> those of DICOM and ITK, and back
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
        array: (I, J, K) float32: HU of a CT, scanner units of an MR. Integers of up to 16 bits, half as large, where a
            caller asked for what the file holds (`read_with_series`): whatever is computed of them is in float32.
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
        if self.array.ndim != 3 or not is_exact(self.array.dtype):
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

    @property
    def display_window(self) -> tuple[float, float] | None:
        """Values to show as black and white: the brain window of HU, else 0 to 1000; None where nothing says what it is."""
        if self.modality is None:
            return None
        return BRAIN_HU if self.encoding == "HU" else SHOWN_MR

    @classmethod
    def from_nibabel(cls, image: "SpatialImage", modality: Modality | None = None) -> "Volume":
        """The volume in an image of nibabel, at the place that its affine says; its values are copied.

        Args:
            image: One 3-D image of real numbers, in mm.
            modality: What it is: HU of a CT, or an MR.

        Raises:
            ValueError: If it has another number of axes, or states another unit than mm.
            SafetyError: If its header leaves open where left and right are.
        """
        forms = _forms_of(image)
        array = np.asarray(image.dataobj).astype(np.float32)
        return cls(array, np.array(image.affine, dtype=np.float64), modality, forms)

    def to_nibabel(self) -> "Nifti1Image":
        """The volume as a NIfTI image of nibabel, float32, with both matrices and the display window; its values are copied."""
        from nibabel import Nifti1Image

        image = Nifti1Image(self.array.astype(np.float32), self.affine)
        image.header.set_xyzt_units("mm")
        if self.forms is None:
            image.set_sform(self.affine, 1)
            image.set_qform(self.affine, 0 if is_sheared(self.affine) else 1)
        else:
            image.set_qform(self.forms.qform, self.forms.qform_code)
            image.set_sform(self.forms.sform, self.forms.sform_code)
        image.header["cal_min"], image.header["cal_max"] = self.display_window or (0, 0)
        return image

    @classmethod
    def from_sitk(cls, image: "SimpleITK.Image", modality: Modality | None = None) -> "Volume":
        """The volume in an image of SimpleITK, from LPS to RAS; its values are copied.

        Args:
            image: One 3-D image with one real number a voxel, in mm.
            modality: What it is: HU of a CT, or an MR.

        Raises:
            UsageError: If SimpleITK is not installed.
            ValueError: If it has another number of axes or of values a voxel.
        """
        sitk = _simpleitk()
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise ValueError(
                "image must have 3 axes and one value a voxel: got"
                f" {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} values"
            )
        array = sitk.GetArrayFromImage(image).astype(np.float32)  # (K, J, I)
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        return cls(np.ascontiguousarray(array.T), LPS @ affine, modality)

    def to_sitk(self) -> "SimpleITK.Image":
        """The volume as a float32 image of SimpleITK, from RAS to LPS; its values are copied.

        Raises:
            UsageError: If SimpleITK is not installed.
        """
        sitk = _simpleitk()
        lps = LPS @ self.affine
        image: SimpleITK.Image = sitk.GetImageFromArray(
            np.ascontiguousarray(self.array.T, np.float32)
        )
        image.SetSpacing(self.spacing_mm)
        image.SetDirection((lps[:3, :3] / self.spacing_mm).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        return image

    def in_float(self) -> "Volume":
        """The volume in float32; itself if it is."""
        if self.array.dtype == np.float32:
            return self
        return replace(self, array=self.array.astype(np.float32))

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


def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether it is float32, or integers of up to 16 bits, which float32 holds exactly."""
    return dtype == np.float32 or (dtype.kind in "iu" and dtype.itemsize <= 2)


def pieces(array: NDArray[Any]) -> Iterator[FloatArray]:
    """The values (N,) of an array as float32, some at a time in the order of memory, so that no copy is of the whole.

    Each piece holds until the next is asked for.
    """
    yield from np.nditer(
        array,
        ["buffered", "external_loop", "zerosize_ok"],
        op_dtypes=[np.float32],
        order="K",
        buffersize=PIECE,
    )


# Functions import nibabel, which takes half a second, when a volume is there: a picture needs none.


def axes_of(affine: Matrix) -> tuple[str, str, str]:
    """Where I, J and K run, to the nearest axis: R or L, A or P, S or I."""
    from nibabel.orientations import aff2axcodes

    i, j, k = aff2axcodes(affine)
    return str(i), str(j), str(k)


def _along_axes(array: NDArray[Value], affine: Matrix) -> NDArray[Value]:
    """The array with I to the right, J to the front and K up, as nearly as permuting and flipping axes allows."""
    from nibabel.orientations import apply_orientation, io_orientation

    turned: NDArray[Value] = apply_orientation(array, io_orientation(affine))  # a view
    return turned


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise UsageError(
            "expected SimpleITK, which is not installed", fix="pip install SimpleITK"
        ) from error
    return SimpleITK


def _forms_of(image: "SpatialImage") -> Forms | None:
    """Both matrices of a NIfTI header; None of another image, whose affine is all there is."""
    if len(image.shape) != 3:
        raise ValueError(f"image must have 3 axes: got {image.shape}")
    from nibabel import Nifti1Image

    if not isinstance(image, Nifti1Image):
        return None
    unit = image.header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise ValueError(f"image must be in mm: got {unit!r}")
    qform, sform = image.get_qform(coded=True), image.get_sform(coded=True)
    given = [matrix for matrix, code in (qform, sform) if code > 0]
    sides = ["".join(axes_of(matrix)) for matrix in given]
    if not given or len(set(sides)) > 1:
        raise SafetyError(
            "expected a header that says where left and right are: found"
            + (f" a qform of {sides[0]} and a sform of {sides[1]}" if given else " both codes 0"),
            fix="set the right one (image.set_sform), or read its file with `--geometry`",
        )
    affine = np.array(image.affine, dtype=np.float64)
    matrices = [affine if matrix is None else matrix for matrix, _ in (qform, sform)]
    return Forms(matrices[0], int(qform[1]), matrices[1], int(sform[1]))


def is_sheared(affine: Matrix) -> bool:
    """Whether axes are off right angles by more than rounding."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > MAX_COSINE)


def canonical(volume: Volume) -> Volume:
    """The volume with I to the right, J to the front and K up, as nearly as permuting and flipping axes allows: a view."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    array = _along_axes(volume.array, volume.affine)
    affine = volume.affine @ inv_ornt_aff(io_orientation(volume.affine), volume.array.shape)
    return Volume(array, affine, volume.modality, unit=volume.unit)


def like(array: FloatArray, volume: Volume) -> FloatArray:
    """An array on the grid of `canonical(volume)`, with its axes as `volume` has them: a view."""
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    back = ornt_transform(RAS, io_orientation(volume.affine))
    turned: FloatArray = apply_orientation(array, back)
    return turned


def axial_slices(array: NDArray[Value]) -> NDArray[Value]:
    """(I, J, K) of a canonical volume -> (K, rows, columns), front at the top, the patient's right at the left: a view."""
    return array[::-1, ::-1].transpose(2, 1, 0)


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
