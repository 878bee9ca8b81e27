"""Files that are written whole or not at all."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ctmr.errors import OutputError
from ctmr.system.disks import lock, sync


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `log.jsonl`; torn lines are skipped, and a file that is not there has none."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():  # before it is opened: a FIFO would block
        return rows
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as f:
        for line in f:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and type(row.get("step")) is int:
                    rows.append(row)
    return rows


# Seconds before another attempt, where what hindered the one before may pass.
PAUSES = (0.1, 0.4, 1.6)
_MAY_PASS = {
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EINTR, errno.EAGAIN),
    *(errno.ESTALE, errno.ETIMEDOUT),
}
_DRAFT = re.compile(r"\.[0-9a-f]{16}(\.new)?\.tmp")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


@contextlib.contextmanager
def replacing(path: Path, held: contextlib.ExitStack | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, once synced to disk, when the block ends well.

    Args:
        path: The file.
        held: What keeps the new file locked; None unlocks it at the end.

    Raises:
        OutputError: If it cannot be written; `path` is then what it was.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with contextlib.ExitStack() as own:
        try:
            make_folder(path.parent)
            draft = _draft(temporary, _touch)
            (own if held is None else held).enter_context(draft)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place, whole, when the block ends well.

    Both are exchanged in one call where the file system can; else a process that is killed between two renames leaves
    the old one as `set_aside(folder)`. Files in it belong written with the functions of this module, which sync them.

    Raises:
        OutputError: If it cannot be written; `folder` is then what it was.
    """
    folder = folder.resolve()  # a link stays one
    with draft_folder(folder) as new:
        yield new
        sync(new)
        _put_in_place(new, folder)


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[Path]:
    """A new folder that takes its place, whole, when the block ends well; only an empty one may be there.

    Raises:
        OutputError: If it cannot be written, or something has come to be there.
    """
    folder = folder.resolve()
    with draft_folder(folder) as new:
        yield new
        sync(new)
        new.rename(folder)


@contextlib.contextmanager
def draft_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, synced and gone when the block ends.

    Raises:
        OutputError: If it cannot be written.
    """
    new = folder.with_name(f".{secrets.token_hex(8)}.new.tmp")
    try:
        with _draft(new, make_folder):
            yield new
        sync(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextlib.contextmanager
def _draft(place: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """Make and hold a half-written file or folder, so that `remove_drafts` of another process leaves it alone."""
    while True:
        make(place)
        with contextlib.suppress(FileNotFoundError):  # removed before it was held
            descriptor = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
            with contextlib.suppress(OSError):
                lock(descriptor, wait=True)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    break
            os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def _touch(place: Path) -> None:
    place.touch(exist_ok=False)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what `folder` was is `new` afterwards, or gone."""
    old = set_aside(folder)
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not of this C library; not a POSIX system
        return False
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(other))


def set_aside(folder: Path) -> Path:
    """Where the old folder is while, for want of an exchange, two renames put a new one in its place."""
    folder = folder.resolve()
    return folder.parent / f".{folder.name}.old"


def recover(folder: Path) -> None:
    """Bring back the old folder if a process was killed while it put a new one in its place.

    Raises:
        OSError: If it cannot be renamed.
    """
    old = set_aside(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def cannot_write(path: Path, error: OSError, size: int | None = None) -> OutputError:
    """The error for a file or folder that cannot be written, with the bytes it needs, if known, and those free."""
    needed = "" if size is None else f" its {size:,} bytes"
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = f"; {shutil.disk_usage(path.parent).free:,} bytes are free"
    return OutputError(
        f"cannot write{needed or ' it'} ({error.strerror or error}{free})",
        file=path,
        fix="check free space and permissions of the folder",
    )


def make_folder(folder: Path) -> None:
    """Make a folder, with those it lies in, unless it is there; what was made outlasts a power cut.

    Raises:
        OSError: If it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def persistently(write: Callable[[], None]) -> None:
    """Write, and again after each of `PAUSES` if what hinders it may pass.

    Raises:
        OutputError: Of the last attempt.
    """
    for pause in PAUSES:
        try:
            return write()
        except OutputError as error:
            cause = error.__cause__
            if not (isinstance(cause, OSError) and cause.errno in _MAY_PASS):
                raise
        time.sleep(pause)
    return write()


def require_writable(place: Path, size: int) -> None:
    """Refuse a file or folder that cannot be written, before any work: by writing beside it, and by the free space.

    Args:
        place: It, or the nearest folder above it that is there, is written to; nothing is left there.
        size: Bytes that must be free.

    Raises:
        OutputError: If it cannot be written, or less is free.
    """
    try:
        folder = next(above for above in (place, *place.absolute().parents) if above.exists())
        folder = folder.parent if folder == place and not folder.is_dir() else folder
        probe = folder / f".{secrets.token_hex(8)}.tmp"
        with replacing(probe) as temporary:
            temporary.write_bytes(b"probe")
        probe.unlink(missing_ok=True)  # `remove_drafts` of another process may have been faster
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cannot_write(place, error) from error
    except OutputError as error:
        raise OutputError(error.what, file=place, fix=error.fix) from error
    if free < size:
        raise OutputError(
            f"expected {size / 1e6:.0f} MB of free space, found {free / 1e6:.0f} MB",
            file=place,
            fix="free space, or choose another place",
        )


def require_empty(folder: Path) -> None:
    """Refuse to write a new data folder over something.

    Raises:
        OutputError: If there is a file, or a folder that is not empty.
    """
    try:
        taken = folder.exists() and any(folder.iterdir())
    except OSError:  # a file, or a folder that cannot be read
        taken = True
    if taken:
        raise OutputError("expected a new or empty folder", file=folder, fix="choose another OUT")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in up to four attempts.

    Raises:
        OutputError: If it cannot be written; `path` is then what it was.
    """

    def write() -> None:
        with replacing(path) as temporary:
            try:
                temporary.write_bytes(content)
            except OSError as error:
                raise cannot_write(path, error, len(content)) from error

    persistently(write)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def json_bytes(value: Any) -> bytes:
    """A JSON file in ASCII, so that any file name fits; NaN is refused."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(path, json_bytes(value))


def is_draft(path: Path) -> bool:
    """Whether a name is that of a half-written file or folder."""
    return _DRAFT.fullmatch(path.name) is not None


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder, by the names that this module gives it.

    What a process still writes it holds (`_draft`), and that stays.
    """
    for draft in folder.glob(".*.tmp"):
        if draft.is_symlink() or not is_draft(draft):
            continue
        try:
            with _abandoned(draft):
                if draft.is_dir():
                    shutil.rmtree(draft)
                else:
                    draft.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue


@contextlib.contextmanager
def _abandoned(draft: Path) -> Iterator[None]:
    """Hold a draft that no process holds.

    Raises:
        BlockingIOError: If one does, or that cannot be known.
        OSError: If it cannot be opened.
    """
    access = os.O_RDONLY if draft.is_dir() else os.O_RDWR
    descriptor = os.open(draft, access | getattr(os, "O_NONBLOCK", 0))
    try:
        try:
            if lock(descriptor, wait=False) is not None:
                raise BlockingIOError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from error
        yield
    finally:
        os.close(descriptor)


def content_digest(path: Path) -> bytes:
    """SHA-256 of a regular file of any size.

    Raises:
        OSError: If it cannot be read, or is no such file.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file, of at most so many.

    Raises:
        OSError: If it cannot be read, is larger, or is no such file: to open a FIFO would wait for ever.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    if status.st_size > most:
        what = f"expected at most {most} bytes: found {status.st_size}"
        raise OSError(errno.EINVAL, what, str(path))
    return path.read_bytes()
