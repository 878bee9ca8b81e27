"""Which files are DICOM and which paths are archives, told by first bytes and names: without pydicom, as most scans are neither."""

import struct
from pathlib import Path

from ctmr.errors import DataError

MAX_FILES = 20_000
MAX_TEXT = 1024  # bytes of one header value
_DICOMDIR = b"1.2.840.10008.1.3.10"  # Media Storage Directory Storage (DICOM PS3.4 B.5)
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def is_archive_name(path: Path) -> bool:
    """Whether the name ends in .zip."""
    return path.suffix.lower() == ".zip"


def is_archive(path: Path) -> bool:
    """Whether it is called so and is no folder; it need not be there."""
    return is_archive_name(path) and not path.is_dir()


def is_dicom(path: Path) -> bool:
    """Whether it is a regular file with `DICM` at byte 128, or a data set without preamble, and no DICOMDIR."""
    start = start_of(path)
    known = start[128:132] == b"DICM" or _is_bare(start)
    return known and _DICOMDIR not in start


def _is_bare(start: bytes) -> bool:
    """Whether bytes begin with three elements, ascending from group 0002 or 0008 on, as a data set without preamble does.

    Little endian, of explicit or implicit VR (DICOM PS3.5 7.1).
    """
    at, last, count = 0, 0, 0
    while at + 12 <= len(start) and count < 3:
        group, element = struct.unpack("<HH", start[at : at + 4])
        tag, vr = group << 16 | element, start[at + 4 : at + 6]
        first = 0x20000 <= tag < 0x30000 or 0x80000 <= tag < 0x90000
        if tag <= last or group > 0x0028 or not (first or count):
            return False
        if vr.isalpha() and vr.isupper():
            size = struct.unpack(
                "<L" if vr in _LONG else "<H",
                start[at + 8 : at + 12] if vr in _LONG else start[at + 6 : at + 8],
            )[0]
            at += 12 if vr in _LONG else 8
        else:
            size = struct.unpack("<L", start[at + 4 : at + 8])[0]
            at += 8
        if size > MAX_TEXT or size % 2:
            return False
        at, last, count = at + size, tag, count + 1
    return count == 3


def start_of(path: Path) -> bytes:
    """The first 512 bytes of a regular file; none of anything else."""
    try:
        if not path.is_file():  # before it is opened: a FIFO would block
            return b""
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise DataError(
            f"expected a readable file: found {error.strerror}", file=path, fix="check permissions"
        ) from error


def find_dicom(folder: Path) -> list[Path]:
    """The DICOM files of a folder, not of its sub-folders, sorted by the bytes of their names; an archive itself."""
    return [folder] if is_archive(folder) else find_files(folder)[0]


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The DICOM files of a folder, sorted by the bytes of their names, and other files but hidden ones and DICOMDIR.

    Of a file in place of the folder it is that file.
    """
    if folder.is_file() and is_dicom(folder):
        return [folder], []
    try:
        entries = sorted(folder.iterdir(), key=lambda path: bytes(path))
    except OSError as error:
        raise DataError(
            f"expected a folder: found {error.strerror}", file=folder, fix="give a folder"
        ) from error
    files = [path for path in entries if path.is_file()]
    if len(files) > MAX_FILES:
        raise DataError(
            f"expected at most {MAX_FILES} files: found {len(files)}",
            file=folder,
            fix="keep one series in a folder",
        )
    dicom = [path for path in files if is_dicom(path)]
    shown = [path for path in files if path.name[0] != "." and path.name.upper() != "DICOMDIR"]
    known = set(dicom)
    return dicom, [path for path in shown if path not in known]
