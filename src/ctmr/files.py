"""Files that are written whole or not at all."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctmr.errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, once synced to disk, when the block ends well.

    Raises:
        OutputError: If it cannot be written; `path` is then what it was.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write it ({error.strerror or error})",
            file=path,
            fix="check free space and permissions of the folder",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place, whole, when the block ends well.

    Raises:
        OutputError: If it cannot be written; `folder` is then what it was.
    """
    folder = folder.resolve()  # a link stays one
    token = secrets.token_hex(8)
    new, old = (folder.with_name(f".{token}.{kind}.tmp") for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync(folder.parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise OutputError(
            f"cannot write it ({error.strerror or error})",
            file=folder,
            fix="check free space and permissions of the folder",
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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


def sync(path: Path) -> None:
    """Force a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in ASCII, so that any file name fits, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


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
