"""NRRD files (`.nrrd`) <-> volumes: which fields of the header are read, and what they mean (LPS, RAS or LAS, mm)."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError
from ctmr.imaging.volume import Volume
from ctmr.io.voxels import (
    EXPORT,
    EXTRACT,
    Geometry,
    Header,
    Packing,
    affine_of_axes,
    numbers,
    packed,
    read_voxels,
    require,
    stored_voxels,
)
from ctmr.types import Matrix

# `type` -> numpy, with its other names (https://teem.sourceforge.net/nrrd/format.html).
_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names.split(", ")}
SPACES = {"left-posterior-superior": "LPS", "lps": "LPS", "right-anterior-superior": "RAS"}
SPACES |= {"ras": "RAS", "left-anterior-superior": "LAS", "las": "LAS"}
PACKINGS: dict[str, Packing] = {"raw": "none", "gzip": "gzip", "gz": "gzip"}
PACKINGS |= {"bzip2": "bzip2", "bz2": "bzip2"}

_ELSEWHERE = {"data file", "datafile"}
_NAMES = {"byteskip": "byte skip", "lineskip": "line skip"}
_VECTOR = re.compile(r"none|\(([^()]*)\)")


def read_nrrd(path: Path, *, geometry: Geometry | None = None) -> Volume:
    """The volume in a `.nrrd` file, of unknown modality; see `voxels.read_voxels` for what is refused.

    Axes without a direction (`none`), as of colours or of time, must have one entry. A `space` that is not of the patient,
    such as scanner-xyz, says as little as none.
    """
    return read_voxels(path, _header, geometry, gzipped=False)


def nrrd_bytes(volume: Volume, description: str) -> bytes:
    """The bytes of a `.nrrd` file, compressed; equal volumes give equal bytes.

    Args:
        volume: Of known modality: a CT becomes int16 HU, an MR float32.
        description: One line, for `content`.
    """
    array = stored_voxels(volume)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    lines = [
        "NRRD0004",
        f"content: {description}",
        f"type: {'short' if array.dtype == np.int16 else 'float'}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, volume.array.shape))}",
        f"space directions: {' '.join(_vector(axis) for axis in lps[:3, :3].T)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_vector(lps[:3, 3])}",
    ]
    voxels = array.astype(array.dtype.newbyteorder("<")).tobytes("F")
    text = "\n".join(lines) + "\n\n"
    return text.encode("ascii") + packed(voxels, "gzip")


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _header(data: bytes, path: Path) -> Header:
    """What the lines up to the first empty one say."""
    fields, offset = _fields(data, path)
    kind, packed = fields.get("type", "none").lower(), fields.get("encoding", "none").lower()
    require(kind in DTYPES, "a type of real numbers", kind[:40], path, EXTRACT)
    expected = f"encoding {', '.join(PACKINGS)}"
    require(packed in PACKINGS, expected, packed[:40], path, "write it again with encoding gzip")
    skips = [fields.get(f"{what} skip", "0") for what in ("line", "byte")]
    require(skips == ["0", "0"], "no line or byte skip", str(skips)[:80], path, EXPORT)
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    require(not units, 'space units "mm"', str(units)[:80], path, "convert the header to mm")
    sizes = [int(size) for size in fields.get("sizes", "").split()]
    count = int(fields.get("dimension", 0))
    require(0 < count == len(sizes), f"{count} sizes", str(len(sizes)), path, EXPORT)
    axes = _axes(fields, count)
    placed = [n for n, axis in enumerate(axes) if axis is not None]
    kept = placed or [n for n, size in enumerate(sizes) if size > 1 or count == 3]
    others = [size for n, size in enumerate(sizes) if n not in kept]
    single = all(size == 1 for size in others)
    found = f"sizes {sizes}, of which {len(others)} are not of space"
    require(single and len(kept) == 3, "one 3-D volume", found[:120], path, EXTRACT)
    shape = tuple(sizes[n] for n in kept)
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    dtype = np.dtype(order + DTYPES[kind])
    is_known = dtype.itemsize == 1 or "endian" in fields
    require(is_known, "endian", "none", path, EXPORT)
    sides, affine = _place(fields, [axes[n] for n in kept], kept)
    return Header(shape, dtype, offset, sides, affine, PACKINGS[packed])


def _axes(fields: dict[str, str], count: int) -> list[NDArray[np.float64] | None]:
    """`space directions`: mm from a voxel to the next along each axis; None for one that is not of space."""
    if "space directions" not in fields:
        return [None] * count
    found = list(_VECTOR.finditer(fields["space directions"]))
    if len(found) != count:
        raise ValueError("as many space directions as axes")
    return [None if one.group() == "none" else numbers(one[1], 3) for one in found]


def _place(
    fields: dict[str, str], axes: list[NDArray[np.float64] | None], kept: list[int]
) -> tuple[NDArray[np.float64], Matrix | None]:
    """Sides in mm of three axes, and the affine where the space is one of the patient."""
    directions = [axis for axis in axes if axis is not None]
    if len(directions) < 3:
        spacings = [float(mm) for mm in fields.get("spacings", "").split()]
        sides = [spacings[n] for n in kept] if len(spacings) > max(kept) else []
        return np.array(sides), None
    matrix = np.array(directions).T  # an axis a column
    with np.errstate(over="ignore", invalid="ignore"):
        sides_mm = np.linalg.norm(matrix, axis=0)
    space = SPACES.get(fields.get("space", "").lower())
    if space is None:
        return sides_mm, None
    origin = numbers(fields.get("space origin", "(0,0,0)").strip("() "), 3)
    return sides_mm, affine_of_axes(matrix, origin, space)


def _fields(data: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Field -> its text up to where the voxels begin, and where that is; comments and keys of users are left out."""
    end = min((at for at in (data.find(b"\n\n"), data.find(b"\r\n\r\n")) if at >= 0), default=-1)
    is_nrrd = re.match(rb"NRRD000[1-5]\r?\n", data) is not None
    require(is_nrrd, "a NRRD file", "another file", path, "give the file the suffix of its content")
    found = "a header without end"
    lines = data[: end if end >= 0 else None].decode("latin-1").splitlines()[1:]
    fields: dict[str, str] = {}
    for line in lines:
        name, sign, text = line.partition(": ")
        if line.startswith("#") or ":=" in name:
            continue
        name = _NAMES.get(name.lower(), name.lower())
        if not sign or name in fields:
            found, end = "a line that is no field, or a field twice", -1
        fields[name] = text.strip()
    if fields.keys() & _ELSEWHERE:
        raise DataError(
            "expected header and voxels in one file: found a header whose voxels are in another file",
            file=path,
            fix="write them as one file, such as `SimpleITK.WriteImage(SimpleITK.ReadImage('scan.nhdr'),"
            " 'scan.nrrd')` in Python, and give that",
        )
    require(end >= 0, "a NRRD header that ends with an empty line", found, path, EXPORT)
    return fields, end + (2 if data[end : end + 2] == b"\n\n" else 4)
