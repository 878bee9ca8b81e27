"""A `.zip` with a DICOM series: which archives are taken, and a folder of their files for as long as one is read."""

import contextlib
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path, PurePosixPath, PureWindowsPath

from ctmr.errors import CtmrError, DataError
from ctmr.io.dicom.header import MAX_FILE_BYTES, require
from ctmr.io.dicom.recognise import is_dicom
from ctmr.io.dicom.validation import MAX_SERIES_BYTES
from ctmr.system.files import cannot_write, require_writable

MAX_MEMBERS = 20_000
MAX_DIRECTORY_BYTES = 2**24  # of the list at the end of an archive
MAX_NAME = 100  # characters of a file name
MAX_ARCHIVE_BYTES = MAX_SERIES_BYTES + 2**26

_START = 512  # bytes of a file that tell whether it is DICOM, as in `recognise.start_of`
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_UNPACK = "unpack it yourself and give the folder of the series"
# What `zipfile` raises of a damaged or odd archive.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError),
)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A new temporary folder with the files of an archive beside each other; it is removed at the end, and after an error.

    The members are judged before one is unpacked. Of those that are no DICOM only the first bytes are kept. Errors that
    come out of the block name the archive and the member, never the folder.

    Raises:
        DataError: If it is no intact archive of plain files, or they are too many or too large.
        OutputError: If there is no space for them.
    """
    with tempfile.TemporaryDirectory(prefix="ctmr-") as name:
        folder = Path(name)
        _unpack(path, folder)
        try:
            yield folder
        except CtmrError as error:
            what = error.what.replace(name, str(path))
            file = None if error.file is None else error.file.replace(name, str(path))
            raise type(error)(what, file=file, fix=error.fix) from error


def _unpack(path: Path, folder: Path) -> None:
    try:
        status = path.stat()  # first: to open a FIFO would wait for ever
        is_file = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_ARCHIVE_BYTES
        what = f"expected a regular file of at most {MAX_ARCHIVE_BYTES} bytes: found another"
        require(is_file, what, path, _UNPACK)
        _require_short_list(path)
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _require_plain(members, path)
            require_writable(folder, sum(member.file_size for member in members))
            written = [_write(archive, m, _free_name(folder, m.filename)) for m in members]
        what = f"expected a DICOM series: found no DICOM among {len(members)} files"
        fix = "move it away, or unpack it if it holds other scans"
        require(any(written), what, path, fix)
    except OSError as error:
        what = f"cannot read it ({error.strerror or type(error).__name__})"
        raise DataError(what, file=path, fix="check the path and permissions") from error
    except _DAMAGED as error:
        what = f"expected an intact .zip archive: found {type(error).__name__} while reading it"
        fix = "copy or download the file again"
        raise DataError(what, file=path, fix=fix) from None  # the cause may hold names


def _free_name(folder: Path, name: str) -> Path:
    """A path in the folder with the last part of a member's name, which another may have too."""
    last = PurePosixPath(PurePosixPath(name).name[-MAX_NAME:] or "member")
    names = chain([last.name], (f"{last.stem}~{n}{last.suffix}" for n in count(2)))
    return next(folder / name for name in names if not (folder / name).exists())


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> bool:
    """Unpack a member, whole if it is DICOM; return whether it is."""
    with archive.open(member) as packed:
        start = packed.read(_START)
        try:
            target.write_bytes(start)
            known = is_dicom(target)
            if known:
                with target.open("ab") as file:
                    shutil.copyfileobj(packed, file)
        except OSError as error:
            raise cannot_write(target.parent, error, member.file_size) from error
    return known


def _require_plain(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse what is not a few plain files of bounded size with names that stay inside."""
    what = f"expected at most {MAX_MEMBERS} files: found {len(members)}"
    require(len(members) <= MAX_MEMBERS, what, path, "put one series into an archive")
    total = sum(member.file_size for member in members)
    largest = max((member.file_size for member in members), default=0)
    what = f"expected files of at most {MAX_SERIES_BYTES} bytes in all, and {MAX_FILE_BYTES} each"
    fits = total <= MAX_SERIES_BYTES and largest <= MAX_FILE_BYTES
    require(fits, f"{what}: found {total} and {largest}", path, "put one series into an archive")
    for n, member in enumerate(members, 1):
        name = PurePosixPath(member.filename)
        inside = not (name.is_absolute() or PureWindowsPath(member.filename).drive)
        inside = inside and ".." not in member.filename.replace("\\", "/").split("/")
        what = f"expected paths inside the archive: found one that leads out of it (file {n})"
        require(inside, what, path, "do not use it; ask where it comes from")
        mode = stat.S_IFMT(member.external_attr >> 16)
        what = f"expected plain files: found a link or a device (file {n})"
        require(mode in (0, stat.S_IFREG), what, path, _UNPACK)
        what = f"expected files without a password: found an encrypted one (file {n})"
        require(not member.flag_bits & 1, what, path, _UNPACK)
        known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        what = f"expected files stored or deflated: found another compression (file {n})"
        require(known, what, path, _UNPACK)
        what = f"expected the files of a series: found an archive in the archive (file {n})"
        require(name.suffix.lower() != ".zip", what, path, _UNPACK)


def _require_short_list(path: Path) -> None:
    """Refuse an archive whose list of members would take much memory (APPNOTE 4.3.14 and 4.3.16)."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - _END.size - 20 - _END_64.size))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size:
        raise zipfile.BadZipFile
    _, _, _, _, files, length, _, _ = _END.unpack_from(tail, at)
    at -= 20 + _END_64.size
    if at >= 0 and tail[at : at + 4] == b"PK\6\6":  # a larger archive, whose own record counts
        files, length = _END_64.unpack_from(tail, at)[7:9]
    what = f"expected a list of at most {MAX_MEMBERS} files in {MAX_DIRECTORY_BYTES} bytes"
    fits = files <= 2 * MAX_MEMBERS and length <= MAX_DIRECTORY_BYTES
    require(fits, f"{what}: found {files} in {length}", path, "put one series into an archive")
