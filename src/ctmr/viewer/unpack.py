"""Unpack an uploaded archive, member by member, to names of our own; what inflates is counted while it does."""

import struct
import zipfile
import zlib
from pathlib import Path

from ctmr.errors import DataError
from ctmr.viewer.limits import FREE_RATIO_BYTES, MAX_BYTES, MAX_FILES, MAX_RATIO
from ctmr.viewer.sniff import ZIP, suffix_of

_CHUNK = 2**18
_MAX_LIST_BYTES = 2**23  # of the list of members at the end: 5000 names of a kB and more
_UNPACK = "unpack it yourself and drop the folder"
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError),
)


def unpack(archive: Path, folder: Path, first: int) -> int:
    """Unpack the scans of an archive to `0001.dcm` and so on, from number `first`.

    Returns:
        How many members are no scans and were left out.

    Raises:
        DataError: If it is damaged, nested, encrypted, too large or too much compressed, or has links.
    """
    _require_short_list(archive)
    left_out, draft = 0, folder / "draft"
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _require_apart(members, archive)
            budget = MAX_BYTES
            for member in members:
                budget -= _inflate(opened, member, draft, budget)
                suffix = suffix_of(draft)
                if suffix == ZIP:
                    raise _refused("found an archive in the archive", archive)
                if suffix is None:
                    draft.unlink()
                    left_out += 1
                    continue
                draft.rename(folder / f"{first:04}{suffix}")
                first += 1
    except _DAMAGED as error:
        what = f"expected an intact .zip archive: found {type(error).__name__} while reading it"
        fix = "copy or download the file again"
        raise DataError(what, file=archive, fix=fix) from None  # the cause may hold names
    finally:
        draft.unlink(missing_ok=True)
    return left_out


def _inflate(opened: zipfile.ZipFile, member: zipfile.ZipInfo, draft: Path, budget: int) -> int:
    """Write a member to a file; the bytes it has."""
    archive, written = Path(opened.filename or ""), 0
    with opened.open(member) as packed, draft.open("wb") as file:
        while chunk := packed.read(_CHUNK):
            written += len(chunk)
            if written > budget:
                raise _refused(f"expected at most {MAX_BYTES} bytes in it: found more", archive)
            if written > max(FREE_RATIO_BYTES, MAX_RATIO * member.compress_size):
                what = f"expected at most {MAX_RATIO} bytes for each that is packed: found more"
                raise _refused(what, archive)
            file.write(chunk)
    if written != member.file_size:
        raise _refused("expected files of the sizes that are listed: found another", archive)
    return written


def _require_apart(members: list[zipfile.ZipInfo], archive: Path) -> None:
    """Refuse too many members, links, devices, encryption, and members that share bytes."""
    if len(members) > MAX_FILES:
        raise _refused(f"expected at most {MAX_FILES} files: found {len(members)}", archive)
    end = 0
    for n, member in enumerate(sorted(members, key=lambda member: member.header_offset), 1):
        if member.header_offset < end:
            raise _refused(
                f"expected files beside each other: found two that overlap ({n})", archive
            )
        end = member.header_offset + member.compress_size
        if (member.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            raise _refused(f"expected plain files: found a link or a device (file {n})", archive)
        if member.flag_bits & 1:
            raise _refused(f"expected no password: found an encrypted file ({n})", archive)
        if member.file_size > MAX_BYTES:
            raise _refused(f"expected at most {MAX_BYTES} bytes in it: found more", archive)


def _require_short_list(archive: Path) -> None:
    """Refuse a list of members that would take much memory, before it is read (APPNOTE 4.3.16)."""
    with archive.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise _refused("expected an intact .zip archive: found no list at its end", archive)
    files, length = struct.unpack_from("<HL", tail, at + 10)
    if files > MAX_FILES or length > _MAX_LIST_BYTES:  # 65535 files where there are more
        raise _refused(f"expected at most {MAX_FILES} files: found {files} or more", archive)


def _refused(what: str, archive: Path) -> DataError:
    return DataError(what, file=archive, fix=_UNPACK)
