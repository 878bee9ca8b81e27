"""NIfTI files <-> volumes: which bytes are accepted, and which matrix of the header says where a voxel lies."""

import gzip
import io
import itertools
import logging
import math
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError, OutputError, SafetyError, printable
from ctmr.imaging.volume import Forms, Volume, axes_of, is_sheared
from ctmr.io.voxels import (
    COPY,
    EXTRACT,
    MAX_BYTES,
    SIGNS,
    Geometry,
    centred_axes,
    fill,
    float_voxels,
    gzipped,
    is_sound,
    require,
    slabs_of,
    voxel_parts,
    warn_of_clear_header,
)
from ctmr.system.files import write_bytes
from ctmr.system.memory import require_memory
from ctmr.types import FloatArray, Matrix

if TYPE_CHECKING:  # nibabel takes half a second to import: only for a volume
    from nibabel.nifti1 import Nifti1Header

_Stream = gzip.GzipFile | io.BufferedReader
_Matrices = dict[str, Matrix]  # "sform" or "qform" -> (4, 4)

MAX_EXTENSION_BYTES = 2**24
# datatype of the header -> numpy; the others are bits, RGB, complex and long double.
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
DTYPES |= {1024: "i8", 1280: "u8"}
# sform and qform disagree where they put a corner of the grid so far apart. Rounding of the quaternion
# to float32 alone, worst near half a turn, does so by up to 0.6 mm at 440 mm from the first voxel.
MAX_SHIFT_MM = 1.0
MAX_ALIGNED_MM = 1000.0  # how far an alignment by the sform moves a scan at most
SAME_SIZE = 0.1  # of a voxel: how much larger the sform may make it than the qform, by an alignment
MAX_NORM_ERROR = 1e-3  # of a quaternion in single precision

_CONVERT = "convert the scan from its source again, to a single .nii or .nii.gz file"

logger = logging.getLogger(__name__)


def is_nifti_name(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path, *, geometry: Geometry | None = None) -> Volume:
    """The volume in a NIfTI-1 or NIfTI-2 file, of unknown modality.

    A slope of 0 or NaN means unscaled values (NIfTI-1 standard), whatever the intercept. Unit 0,
    unknown, is taken for mm. The forms are the header's, but one that `geometry` overrules gets code
    0 and the affine; axes that `geometry` gives have the origin at the grid's centre and code 2.

    Args:
        path: A single file, `.nii` or `.nii.gz`.
        geometry: What to trust where the header does not settle it: one of its two matrices or, if
            it has no usable one, where its axes run. What it does not leave open stays, with a warning.

    Raises:
        DataError: If it is not an intact file of one 3-D volume of finite real numbers.
        SafetyError: If the header leaves open where left and right are, or contradicts itself.
    """
    data, expected = bytearray(), 352
    try:
        with _opened(path) as stream:
            fill(data, stream.read1, 540)
            header = _header(bytes(data), path)
            expected = _size(header, path)
            affine, forms = _place(header, geometry, path)
            require_memory(expected + 4 * math.prod(map(int, header["dim"][1:4])), path)
            fill(data, stream.read1, expected + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        what = f"expected {expected} bytes of intact gzip: found {len(data)}, then {str(error)!r}"
        raise DataError(printable(what), file=path, fix=COPY) from error
    except OSError as error:
        what, fix = f"cannot read it ({error.strerror})", "check the path and permissions"
        raise DataError(what, file=path, fix=fix) from error
    found = "more" if len(data) > expected else str(len(data))
    require(len(data) == expected, f"{expected} bytes as its header says", found, path, COPY)
    return Volume(_values(header, data, path), affine, forms=forms)


def _opened(path: Path) -> _Stream:
    """The bytes of a regular file, inflated if its name says so."""
    status = path.stat()  # first: to open a FIFO would wait for ever
    is_file = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
    found = f"{status.st_size} bytes, type {stat.filemode(status.st_mode)[0]!r}"
    expected = f"a regular file of at most {MAX_BYTES} bytes"
    require(is_file, expected, found, path, "give a NIfTI file")
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    is_named_so = is_gzip == path.name.lower().endswith(".gz")
    found, fix = "gzip" if is_gzip else "no gzip", "give the file the suffix of its content"
    require(is_named_so, "gzip in .nii.gz and none in .nii", found, path, fix)
    return gzip.open(path) if is_gzip else path.open("rb")


def _header(data: bytes, path: Path) -> "Nifti1Header":
    """The header at the start of a single NIfTI-1 or NIfTI-2 file, of either byte order."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for order in "<>":
        size = struct.unpack(f"{order}i", data[:4].ljust(4, b"\0"))[0]
        if size == 348 and data[344:348] == b"n+1\0":
            return Nifti1Header(data[:348], endianness=order, check=False)
        if size == len(data) == 540 and data[4:12] == b"n+2\0\r\n\x1a\n":
            return Nifti2Header(data, endianness=order, check=False)
    pair = b"ni" in (data[344:346], data[4:6])
    found = "a .hdr and .img pair" if pair else f"another file of {len(data)} bytes or more"
    raise DataError(f"expected a single NIfTI file: found {found}", file=path, fix=_CONVERT)


def _size(header: "Nifti1Header", path: Path) -> int:
    """Bytes of the whole file, if what the header says of its voxels can be used."""
    count, code = int(header["dim"][0]), int(header["datatype"])
    shape = tuple(int(side) for side in header["dim"][1 : max(count, 0) + 1])
    is_3d = 3 <= count <= 7 and min(shape) > 0 and max((1, *shape[3:])) == 1
    require(is_3d, "one 3-D volume", f"{count} dimensions {shape}", path, EXTRACT)
    require(code in DTYPES, "real numbers", f"datatype {code}", path, EXTRACT)
    itemsize = np.dtype(DTYPES[code]).itemsize
    fits = math.prod(shape) * max(itemsize, 4) <= MAX_BYTES
    require(fits, f"at most {MAX_BYTES} bytes", f"{shape} voxels", path, "crop the scan")
    offset, least = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    fits = least <= offset <= least + MAX_EXTENSION_BYTES and offset.is_integer()
    expected = f"vox_offset from {least} to {least + MAX_EXTENSION_BYTES}"
    require(fits, expected, str(offset), path, _CONVERT)
    unit = int(header["xyzt_units"]) & 7
    require(unit in (0, 2), "xyzt_units 2 (mm)", str(unit), path, "convert the header to mm")
    is_finite = all(map(math.isfinite, _scaling(header)))
    found = f"{header['scl_slope']} and {header['scl_inter']}"
    require(is_finite, "a finite scl_slope and scl_inter", found, path, _CONVERT)
    return int(offset) + math.prod(shape) * itemsize


def _scaling(header: "Nifti1Header") -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    return (1.0, 0.0) if slope == 0 or math.isnan(slope) else (slope, intercept)


def _values(header: "Nifti1Header", data: bytearray, path: Path) -> NDArray[Any]:
    """The scaled voxels (I, J, K)."""
    dtype = np.dtype(DTYPES[int(header["datatype"])]).newbyteorder(header.endianness)
    stored = np.frombuffer(data, dtype, offset=int(header["vox_offset"]))
    stored = stored.reshape(header["dim"][1:4], order="F")
    slope, intercept = _scaling(header)
    return float_voxels(stored, path, slope, intercept)


@np.errstate(invalid="ignore")  # a NaN in it is refused below
def _place(header: "Nifti1Header", geometry: Geometry | None, path: Path) -> tuple[Matrix, Forms]:
    """The affine, and the forms to write back."""
    matrices = {"sform": header.get_sform().astype(np.float64), "qform": _qform(header)}
    codes = {name: int(header[f"{name}_code"]) for name in matrices}
    given = {name: matrix for name, matrix in matrices.items() if codes[name] > 0}
    usable = {name: matrix for name, matrix in given.items() if is_sound(matrix)}
    sides = header["pixdim"][1:4].astype(np.float64)
    is_sized = bool(np.isfinite(sides).all() and (sides > 0).all())
    fix = f"give `--geometry {' or '.join(usable or SIGNS)}` if you know that it is right, else correct the header"
    fix = fix if usable or is_sized else _CONVERT
    if geometry is not None and (usable if geometry in SIGNS else geometry not in given):
        warn_of_clear_header(geometry)
        geometry = None
    if geometry is None or geometry in SIGNS:
        require(is_sized, "voxel sizes over 0 mm", str(sides), path, fix, SafetyError)
    if geometry is None:
        _require_clear(given, header, path, fix)
        geometry = "sform" if "sform" in given else "qform"
        if len(given) == 2 and _shift(given["qform"], given["sform"], header) >= MAX_SHIFT_MM:
            shift = _shift(given["qform"], given["sform"], header)
            logger.warning(
                "%s: qform and sform are up to %.3g mm apart and agree on left and right: the sform is used",
                printable(str(path)),
                shift,
            )
            return given["sform"], Forms(
                given["qform"], codes["qform"], given["sform"], codes["sform"]
            )
    if geometry in SIGNS:
        affine = centred_axes(sides, header["dim"][1:4], geometry)
        return affine, Forms(affine, 2, affine, 2)
    require(geometry in usable, f"an invertible {geometry}", "none", path, fix, SafetyError)
    affine = matrices[geometry]
    for name, matrix in matrices.items():
        is_whole = name in usable if name in given else bool(np.isfinite(matrix).all())
        if not is_whole or (name in given and _shift(matrix, affine, header) >= MAX_SHIFT_MM):
            matrices[name], codes[name] = affine, 0
    return affine, Forms(matrices["qform"], codes["qform"], matrices["sform"], codes["sform"])


def _require_clear(given: _Matrices, header: "Nifti1Header", path: Path, fix: str) -> None:
    """Refuse a header that leaves open where left and right are."""
    wrong = [f"no invertible {name}" for name, matrix in given.items() if not is_sound(matrix)]
    found = " and ".join(wrong) or "both codes 0, so that left and right are unknown"
    is_clear = bool(given) and not wrong
    require(is_clear, "an invertible sform or qform", found, path, fix, SafetyError)
    if len(given) == 2:
        shift = _shift(given["qform"], given["sform"], header)
        found = f"{_stated(given)}, up to {shift:.3g} mm apart"
        aligned = shift <= MAX_ALIGNED_MM and _same_sides(given["qform"], given["sform"])
        agree = shift < MAX_SHIFT_MM or aligned
        require(agree, "forms that agree", found, path, fix, SafetyError)


def _stated(matrices: _Matrices) -> str:
    """Where the axes run, as `sform says RAS, qform says LAS`."""
    return ", ".join(f"{name} says {''.join(axes_of(m))}" for name, m in matrices.items())


def _shift(matrix: Matrix, affine: Matrix, header: "Nifti1Header") -> float:
    """How far apart two matrices put any corner of the grid, in mm."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * header["dim"][1:4] - 0.5  # (8, 3)
    difference = matrix - affine
    moved = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved, axis=1).max())


def _same_sides(qform: Matrix, sform: Matrix) -> bool:
    """Whether both say the same of each axis and of the voxels' size, as a scan that was aligned by its sform does."""
    sizes = [np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (qform, sform)]
    same_sizes = bool((np.abs(sizes[0] - sizes[1]) <= SAME_SIZE * sizes[0]).all())
    return same_sizes and axes_of(qform) == axes_of(sform)


def _qform(header: "Nifti1Header") -> Matrix:
    """The qform whatever its code; NaN where the header's numbers make none."""
    from nibabel.spatialimages import HeaderDataError

    header["pixdim"][0] = header["pixdim"][0] or 1  # 0 means 1 (NIfTI-1 standard)
    parts = ("quatern_b", "quatern_c", "quatern_d")
    norm = math.sqrt(sum(float(header[part]) ** 2 for part in parts))
    if 1 < norm <= 1 + MAX_NORM_ERROR:  # by rounding: half a turn
        for part in parts:
            header[part] = float(header[part]) / norm
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError):
        return np.full((4, 4), np.nan)


Shown = tuple[float, float]  # values that a viewer shows as black and as white


def write_nifti(path: Path, volume: Volume, description: str, shown: Shown | None = None) -> None:
    """Write a volume as `nifti_bytes` makes it."""
    write_bytes(path, nifti_bytes(path, volume, description, shown))


def nifti_bytes(path: Path, volume: Volume, description: str, shown: Shown | None = None) -> bytes:
    """The bytes of a NIfTI file: a CT as int16 HU, rounded half to even and clipped; an MR as float32.

    A source's header passes on its two matrices and their codes, nothing else. Without forms, both
    matrices are the affine, code 1; only the sform if it is sheared. Equal volumes give equal bytes.

    Args:
        path: A name that ends in .nii or .nii.gz.
        volume: Of known modality.
        description: For `descrip`: at most 79 printable ASCII characters.
        shown: `cal_min` and `cal_max`; the volume's `display_window` where None.

    Raises:
        OutputError: If the suffix is another one.
    """
    return b"".join(nifti_parts(path, volume, description, slabs_of(volume), shown))


def nifti_parts(
    path: Path,
    volume: Volume,
    description: str,
    slabs: Iterable[FloatArray],
    shown: Shown | None = None,
) -> Iterator[bytes]:
    """The bytes of `nifti_bytes` in parts, of voxels that may come to be while they are written.

    Args:
        path: See `nifti_bytes`.
        volume: What is written, but for its voxels, which are not looked at.
        description: See `nifti_bytes`.
        slabs: The voxels (I, J, n), `SLAB` slices at a time.
        shown: See `nifti_bytes`.

    Raises:
        OutputError: If the suffix is another one.
    """
    require(is_nifti_name(path), ".nii or .nii.gz", path.suffix, path, "rename it", OutputError)
    header = _fresh_header(volume, description, path)
    header["cal_min"], header["cal_max"] = shown or volume.display_window or (0, 0)
    start: bytes = header.binaryblock + bytes(4)  # 4 bytes: no extension
    parts = itertools.chain([start], voxel_parts(volume, slabs))
    return gzipped(parts) if path.name.lower().endswith(".gz") else parts


def _fresh_header(volume: Volume, description: str, path: Path) -> "Nifti1Header":
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if len(description) > 79 or not (description.isascii() and description.isprintable()):
        raise ValueError(f"description must be at most 79 ASCII characters: got {description!r}")
    is_small = max(volume.array.shape) <= 32767  # the greatest int16
    header = Nifti1Header(endianness="<") if is_small else Nifti2Header(endianness="<")
    header.set_data_dtype(np.int16 if volume.modality == "ct" else np.float32)
    header.set_data_shape(volume.array.shape)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"], header["xyzt_units"] = int(header["sizeof_hdr"]) + 4, 2  # mm
    header["descrip"] = description.encode("ascii")
    forms = volume.forms or _new_forms(volume.affine, path)
    if not any(np.allclose(m, volume.affine, atol=1e-6) for m in (forms.sform, forms.qform)):
        raise ValueError(f"forms must hold the affine: got {forms!r} and {volume.affine!r}")
    sides = np.linalg.norm(forms.qform[:3, :3], axis=0)  # pixdim comes with the qform
    fits = forms.qform_code > 0 or np.allclose(sides, volume.spacing_mm, rtol=1e-3)
    header.set_qform(forms.qform if fits else volume.affine, code=0)
    header.set_sform(forms.sform, code=0)
    header["qform_code"], header["sform_code"] = forms.qform_code, forms.sform_code
    return header


def _new_forms(affine: Matrix, path: Path) -> Forms:
    if is_sheared(affine):
        logger.warning("%s: sform only, as its axes are sheared", printable(str(path)))
    return Forms(affine, 0 if is_sheared(affine) else 1, affine, 1)
