"""What an uploaded file is by its first bytes; the name that a user gave it is never looked at."""

import zlib
from pathlib import Path

from ctmr.io.dicom.recognise import is_dicom, start_of

ZIP = ".zip"
DICOM = ".dcm"
_NIFTI_SIZES = (348, 540)  # of a header, its first four bytes
_STARTS = (
    (b"PK\3\4", ZIP),
    (b"PK\5\6", ZIP),  # an empty one
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"NRRD0", ".nrrd"),
)
_PACKED = b"\x1f\x8b"
_LEFT_OUT = b"1.2.840.10008.1.3.10"  # a DICOMDIR


def suffix_of(path: Path) -> str | None:
    """The suffix of the format that a file has, as `.nii.gz`; None for what is no scan and no archive."""
    if is_dicom(path):
        return DICOM
    start = start_of(path)
    if _LEFT_OUT in start:
        return None
    for magic, suffix in _STARTS:
        if start.startswith(magic):
            return suffix
    if start.startswith(_PACKED):
        inside = _volume(_unpacked(start))
        return {".nii": ".nii.gz", ".mgh": ".mgz"}.get(inside or "")
    return _volume(start)


def _volume(start: bytes) -> str | None:
    """The suffix of a volume file that is not compressed."""
    for order in ("little", "big"):
        if int.from_bytes(start[:4], order) in _NIFTI_SIZES:
            return ".nii"
    if start[:4] == b"\0\0\0\1" and len(start) >= 284:  # version 1 of MGH
        return ".mgh"
    first = start.lstrip()[:11]
    return ".mha" if first in (b"ObjectType ", b"ObjectType=") or first[:5] == b"NDims" else None


def _unpacked(start: bytes) -> bytes:
    """The first bytes of what a gzip file holds."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 512)
    except zlib.error:
        return b""
