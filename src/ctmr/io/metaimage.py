"""MetaImage files (`.mha`) <-> volumes: which lines of the header are read, and what they mean (LPS, mm)."""

from pathlib import Path

import numpy as np

from ctmr.errors import DataError
from ctmr.imaging.volume import Volume
from ctmr.io.voxels import (
    EXPORT,
    EXTRACT,
    Geometry,
    Header,
    affine_of_axes,
    numbers,
    packed,
    read_voxels,
    require,
    stored_voxels,
)

# ElementType -> numpy, with the sizes of MetaIO's metaTypes.h.
DTYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"}
DTYPES |= {"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"}
DTYPES |= {"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}

_LAST = "ElementDataFile"  # the voxels begin behind this line
_SPACES = {"mm", "?"}
# Lines that must say this, if they are there.
_FIXED = {"ObjectType": "Image", "BinaryData": "True", "ElementNumberOfChannels": "1"}
_FIXED |= {"HeaderSize": "0", "ElementToIntensityFunctionSlope": "1"}
_FIXED |= {"ElementToIntensityFunctionOffset": "0"}
# Other names of a line, which MetaIO reads too.
_NAMES = {"Position": "Offset", "Origin": "Offset"}
_NAMES |= {"Orientation": "TransformMatrix", "Rotation": "TransformMatrix"}
_NAMES |= {"ElementByteOrderMSB": "BinaryDataByteOrderMSB"}


def read_metaimage(path: Path, *, geometry: Geometry | None = None) -> Volume:
    """The volume in a `.mha` file, of unknown modality; see `voxels.read_voxels` for what is refused."""
    return read_voxels(path, _header, geometry, gzipped=False)


def metaimage_bytes(volume: Volume, description: str) -> bytes:
    """The bytes of a `.mha` file, compressed; equal volumes give equal bytes.

    Args:
        volume: Of known modality: a CT becomes int16 HU, an MR float32.
        description: One line, for `Comment`.
    """
    array = stored_voxels(volume)
    voxels = packed(array.astype(array.dtype.newbyteorder("<")).tobytes("F"), "zlib")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    directions = lps[:3, :3] / volume.spacing_mm
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "Comment": description,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(voxels)),
        "TransformMatrix": _line(directions.T),  # an axis a row
        "Offset": _line(lps[:3, 3]),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": _line(np.array(volume.spacing_mm)),
        "DimSize": " ".join(map(str, volume.array.shape)),
        "ElementType": "MET_SHORT" if array.dtype == np.int16 else "MET_FLOAT",
        _LAST: "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in lines.items()).encode("ascii") + voxels


def _line(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values.ravel())


def _header(data: bytes, path: Path) -> Header:
    """What the lines up to `ElementDataFile` say."""
    lines, offset = _lines(data, path)
    for key, value in _FIXED.items():
        found = lines.get(key, value)
        require(found == value, f"{key} = {value}", found[:40], path, EXTRACT)
    kind = lines.get("ElementType", "none")
    require(kind in DTYPES, "an ElementType of real numbers", kind[:40], path, EXTRACT)
    unit = lines.get("DistanceUnits", "mm")
    require(unit in _SPACES, "DistanceUnits = mm", unit[:40], path, "convert the header to mm")
    shape = tuple(int(side) for side in lines.get("DimSize", "").split())
    count = int(lines.get("NDims", len(shape)))
    require(count == len(shape) == 3, "NDims = 3", f"{count} and {shape}"[:80], path, EXTRACT)
    spacing = lines.get("ElementSpacing", lines.get("ElementSize", ""))
    sides = numbers(spacing, 3)
    affine = None
    if "TransformMatrix" in lines:
        directions = numbers(lines["TransformMatrix"], 9).reshape(3, 3).T  # an axis a column
        first = numbers(lines.get("Offset", "0 0 0"), 3)
        affine = affine_of_axes(directions * sides, first, "LPS")
    order = ">" if lines.get("BinaryDataByteOrderMSB", "False") == "True" else "<"
    is_packed = lines.get("CompressedData", "False") == "True"
    dtype = np.dtype(order + DTYPES[kind])
    return Header(shape, dtype, offset, sides, affine, "zlib" if is_packed else "none")


def _lines(data: bytes, path: Path) -> tuple[dict[str, str], int]:
    """Key -> value up to where the voxels begin, and where that is."""
    lines: dict[str, str] = {}
    at = 0
    while _LAST not in lines:
        end = data.find(b"\n", at)
        key, sign, value = data[at : max(end, at)].decode("latin-1").partition("=")
        key = _NAMES.get(key.strip(), key.strip())
        is_line = end >= 0 and bool(sign) and key not in lines
        found = "another file, or a header without end"
        require(is_line, f"lines of `key = value` up to {_LAST}", found, path, EXPORT)
        lines[key], at = value.strip(), end + 1
    if lines[_LAST] != "LOCAL":
        raise DataError(
            f"expected {_LAST} = LOCAL: found a header whose voxels are in another file",
            file=path,
            fix="write header and voxels as one file, such as `SimpleITK.WriteImage(SimpleITK.ReadImage"
            "('scan.mhd'), 'scan.mha')` in Python, and give that",
        )
    return lines, at
