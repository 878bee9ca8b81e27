"""FreeSurfer's volumes (`.mgz`, `.mgh`) <-> volumes: a binary header, voxels, and what follows them."""

import struct
from pathlib import Path

import numpy as np

from ctmr.imaging.volume import Volume
from ctmr.io.voxels import (
    EXTRACT,
    Geometry,
    Header,
    packed,
    read_voxels,
    require,
    stored_voxels,
)

DTYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}  # `type` -> numpy
MAX_FOOTER_BYTES = 2**24  # scan parameters, transforms and command lines
DATA_OFFSET = 284  # bytes of the header
_USED = 90  # bytes of the header that mean something
_COMMAND_LINE = 3  # the tag of a text behind the voxels (FreeSurfer's tags.h)


def is_gzipped(path: Path) -> bool:
    """Whether the whole file is compressed, by its name."""
    return path.suffix.lower() == ".mgz"


def read_mgh(path: Path, *, geometry: Geometry | None = None) -> Volume:
    """The volume in a `.mgz` or `.mgh` file, of unknown modality; see `voxels.read_voxels` for what is refused.

    Without `goodRASFlag` the header says nothing of the axes, and FreeSurfer's default is not taken for it.
    """
    return read_voxels(path, _header, geometry, gzipped=is_gzipped(path))


def mgh_bytes(path: Path, volume: Volume, description: str) -> bytes:
    """The bytes of a `.mgz` or `.mgh` file; equal volumes give equal bytes.

    Args:
        path: A name that ends in .mgz or .mgh.
        volume: Of known modality: a CT becomes int16 HU, an MR float32.
        description: One line, kept behind the voxels as FreeSurfer keeps command lines.
    """
    from nibabel.freesurfer.mghformat import MGHHeader  # half a second: only for a volume

    array = stored_voxels(volume)
    header = MGHHeader()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header["delta"] = volume.spacing_mm
    header["Mdc"] = (volume.affine[:3, :3] / volume.spacing_mm).T  # an axis a row
    header["Pxyz_c"] = volume.affine[:3] @ [*(np.array(array.shape) / 2), 1]
    text = description.encode("ascii") + b"\0"
    footer = bytes(5 * 4) + struct.pack(">iq", _COMMAND_LINE, len(text)) + text
    voxels = array.astype(array.dtype.newbyteorder(">")).tobytes("F")
    content: bytes = header.binaryblock[:_USED].ljust(DATA_OFFSET, b"\0") + voxels
    content += footer
    return packed(content, "gzip") if is_gzipped(path) else content


def _header(data: bytes, path: Path) -> Header:
    """What the first 284 bytes say."""
    from nibabel.freesurfer.mghformat import MGHHeader

    version, *dims, code = struct.unpack(">6i", data[:24].ljust(24, b"\0"))
    is_mgh = version == 1 and len(data) >= DATA_OFFSET
    found = f"another file of {len(data)} bytes or more"
    require(is_mgh, "an MGH file of version 1", found, path, "give the file its own suffix")
    require(code in DTYPES, "real numbers", f"type {code}", path, EXTRACT)
    require(dims[3] == 1, "one frame", str(dims[3]), path, EXTRACT)
    (has_axes,) = struct.unpack(">h", data[28:30])
    header = MGHHeader(data[:DATA_OFFSET], check=False)
    with np.errstate(all="ignore"):  # what is not finite is refused later
        affine = np.asarray(header.get_affine(), np.float64) if has_axes == 1 else None
    sides = np.array(struct.unpack(">3f", data[30:42]), np.float64)
    dtype = np.dtype(DTYPES[code])
    return Header(tuple(dims[:3]), dtype, DATA_OFFSET, sides, affine, more=MAX_FOOTER_BYTES)
