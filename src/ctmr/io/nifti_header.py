"""The header of a NIfTI file as it lies in the file, and its two matrices.

nibabel knows all of it too, and takes 0.4 s to import; the tests compare with it.
"""

import struct
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctmr.types import Matrix

Header = NDArray[np.void]
"""The fields of one header, of shape ()."""

# Fields that nothing here reads or writes have no names of their own.
_FIRST: list[tuple[Any, ...]] = [
    *(("sizeof_hdr", "i4"), ("unused", "V36"), ("dim", "i2", 8), ("intent", "V14")),
    *(("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", 8)),
    *(("vox_offset", "f4"), ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "V3")),
    *(("xyzt_units", "u1"), ("cal_max", "f4"), ("cal_min", "f4"), ("times", "V16")),
    *(("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2")),
    *(("quatern", "f4", 3), ("qoffset", "f4", 3), ("srow", "f4", (3, 4))),
    *(("intent_name", "S16"), ("magic", "V4")),
]
_SECOND: list[tuple[Any, ...]] = [
    *(("sizeof_hdr", "i4"), ("magic", "V8"), ("datatype", "i2"), ("bitpix", "i2")),
    *(("dim", "i8", 8), ("intent", "V24"), ("pixdim", "f8", 8), ("vox_offset", "i8")),
    *(("scl_slope", "f8"), ("scl_inter", "f8"), ("cal_max", "f8"), ("cal_min", "f8")),
    *(("times", "V32"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4")),
    *(("sform_code", "i4"), ("quatern", "f8", 3), ("qoffset", "f8", 3), ("srow", "f8", (3, 4))),
    *(("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "V21"), ("unused", "V15")),
]


class Version(NamedTuple):
    """One of the two versions of the standard.

    Attributes:
        fields: Of the header, little-endian.
        size: Of the header, bytes.
        magic: By which a single file is known, at the place of the field of that name.
        epsilon: Rounding of the numbers in it.
    """

    fields: np.dtype[np.void]
    size: int
    magic: bytes
    epsilon: float


NIFTI_1 = Version(np.dtype(_FIRST), 348, b"n+1\0", float(np.finfo(np.float32).eps))
NIFTI_2 = Version(np.dtype(_SECOND), 540, b"n+2\0\r\n\x1a\n", float(np.finfo(np.float64).eps))


def header_in(data: bytes) -> Header | None:
    """The header at the start of a single NIfTI file, of either version and byte order; None if there is none."""
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        stated = struct.unpack(f"{order}i", data[:4].ljust(4, b"\0"))[0]
        for version in (NIFTI_1, NIFTI_2):
            if stated == version.size <= len(data):
                fields = version.fields.newbyteorder(order)
                header = np.frombuffer(data, fields, count=1).reshape(()).copy()
                if header["magic"].tobytes() == version.magic:
                    return header
    return None


def new_header(version: Version, shape: tuple[int, ...], datatype: int, bits: int) -> Header:
    """A little-endian header of a single file without extensions, of an array (I, J, K) with no place in space yet."""
    header = np.zeros((), version.fields)
    header["sizeof_hdr"], header["magic"] = version.size, np.void(version.magic)
    header["dim"], header["pixdim"] = (3, *shape, 1, 1, 1, 1), 1
    header["datatype"], header["bitpix"] = datatype, bits
    header["scl_slope"], header["vox_offset"] = 1, version.size + 4
    return header


def sform(header: Header) -> Matrix:
    """The (4, 4) of the sform, whatever its code."""
    return np.vstack([header["srow"].astype(np.float64), [0.0, 0.0, 0.0, 1.0]])


def qform(header: Header) -> Matrix:
    """The (4, 4) of the qform, whatever its code; NaN where the numbers make none.

    By the quaternion's three last numbers, as the standard has it: its first is what is missing to length 1.
    """
    sides, qfac = header["pixdim"][1:4].copy(), float(header["pixdim"][0])
    b, c, d = header["quatern"].astype(np.longdouble)
    missing = 1 - (b * b + c * c + d * d)
    first_version = int(header["sizeof_hdr"]) == NIFTI_1.size
    nothing = 3 * (NIFTI_1 if first_version else NIFTI_2).epsilon
    is_one = missing >= 0 or abs(missing) < nothing
    if not is_one or (sides < 0).any() or qfac not in (-1, 1):
        return np.full((4, 4), np.nan)
    a = np.sqrt(missing) if missing >= nothing else np.longdouble(0)
    sides[2] *= qfac
    twice = 2 / (a * a + b * b + c * c + d * d)
    x, y, z = b * twice, c * twice, d * twice
    rotation = np.array(
        [
            [1 - (c * y + d * z), b * y - a * z, b * z + a * y],
            [b * y + a * z, 1 - (b * x + d * z), c * z - a * x],
            [b * z - a * y, c * z + a * x, 1 - (b * x + c * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation * sides, header["qoffset"]
    return matrix


def set_sform(header: Header, matrix: Matrix, code: int) -> None:
    """State the sform."""
    header["srow"], header["sform_code"] = matrix[:3], code


def set_qform(header: Header, matrix: Matrix, code: int) -> None:
    """State the voxel sizes and the rotation nearest to that of a matrix (4, 4), as a quaternion."""
    sides = np.sqrt(np.sum(matrix[:3, :3] * matrix[:3, :3], axis=0))
    axes = matrix[:3, :3] / sides
    qfac = 1 if np.linalg.det(axes) > 0 else -1
    axes[:, 2] *= qfac
    left, _, right = np.linalg.svd(axes)
    header["pixdim"][0], header["pixdim"][1:4] = qfac, sides
    header["quatern"], header["qoffset"] = _quaternion(left @ right)[1:], matrix[:3, 3]
    header["qform_code"] = code


def _quaternion(rotation: Matrix) -> Matrix:
    """The quaternion (4,) of a rotation, its first number not negative.

    It is the eigenvector of the greatest eigenvalue of a symmetric matrix (Bar-Itzhack 2000, JGCD 23(6), 1085-1087).
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    lower = [
        [xx - yy - zz, 0, 0, 0],
        [xy + yx, yy - xx - zz, 0, 0],
        [xz + zx, yz + zy, zz - xx - yy, 0],
        [zy - yz, xz - zx, yx - xy, xx + yy + zz],
    ]
    _, vectors = np.linalg.eigh(np.array(lower) / 3)  # ascending; of the lower triangle
    quaternion: Matrix = vectors[[3, 0, 1, 2], 3]
    return -quaternion if quaternion[0] < 0 else quaternion
