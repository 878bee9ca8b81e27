"""The index of a store: one record of fixed size for each slice, read by its position."""

import struct
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

RECORD = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("checksum", "<u4"),
        ("name_bytes", "<u2"),
        ("patient_bytes", "<u2"),
        ("text_at", "<u8"),
        ("height_mm", "<f8"),
        ("sha256", "V32"),
        ("own_checksum", "<u4"),
    ]
)
"""Its last field is the checksum of the others; `NO_PATIENT` and NaN stand for what a slice has not."""
NO_PATIENT = 2**16 - 1
Records = NDArray[np.void]
_LAYOUT = struct.Struct("<IIIIIHHQd32sI")
_SEALED = RECORD.itemsize - 4


class Record(NamedTuple):
    """One slice; the names are those of `RECORD`.

    Attributes:
        shard: Number of the file that holds it.
        offset: Where it begins in it, in bytes.
        height: In pixels.
        width: Likewise.
        checksum: CRC-32 of its bytes.
        name_bytes: Length of its name, which begins at `text_at` in the texts.
        patient_bytes: Length of its patient's, which follows; `NO_PATIENT` without one.
        text_at: In bytes.
        height_mm: Of a volume's slice, its distance below the top of the head; else NaN.
        sha256: Of the scan that it comes from.
        own_checksum: CRC-32 of the bytes before it.
    """

    shard: int
    offset: int
    height: int
    width: int
    checksum: int
    name_bytes: int
    patient_bytes: int
    text_at: int
    height_mm: float
    sha256: bytes
    own_checksum: int = 0


def unpacked(content: bytes) -> Record | None:
    """The record in some bytes; None if they are not those that were written."""
    record = Record._make(_LAYOUT.unpack(content))
    return record if checksum(content[:_SEALED]) == record.own_checksum else None


def packed(record: Record) -> bytes:
    """The bytes of a record, with its own checksum in place of the one given."""
    content = _LAYOUT.pack(*record)[:_SEALED]
    return content + struct.pack("<I", checksum(content))


def checksum(content: bytes | bytearray | memoryview) -> int:
    """CRC-32: 41 kB, a slice of 144 x 144, take 5 microseconds."""
    return isal_zlib.crc32(content)
