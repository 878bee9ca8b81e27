"""The files of a store: read by position, and what is known of each."""

import os
from pathlib import Path

from pydantic.dataclasses import dataclass

from ctmr.data.copies import sha256_of
from ctmr.errors import DataError

MAX_OPEN = 128  # files at once; a process may often have 1024
RESTORE = "bring it back from a copy, or delete the store and prepare the data again"


@dataclass(frozen=True)
class Part:
    """One file of a store."""

    bytes: int
    sha256: str


Parts = dict[str, Part]


class OpenFiles:
    """The files of a folder, each opened when it is first read.

    Nothing is mapped into memory: a file that is cut while it is read is an error, where a map would kill the process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}

    def read(self, name: str, offset: int, length: int) -> bytes:
        """So many bytes of a file.

        Raises:
            DataError: If it has not so many, cannot be read, or is gone.
        """
        try:
            descriptor = self._descriptor(name)
            if os.fstat(descriptor).st_nlink == 0:  # removed since it was opened
                raise FileNotFoundError(None, "it was removed")
            content = os.pread(descriptor, length, offset)
        except OSError as error:
            what = f"cannot read it ({error.strerror})"
            raise DataError(what, file=self._folder / name, fix=RESTORE) from error
        if len(content) != length:
            raise DataError(
                f"cut off: expected {length} bytes at {offset}, found {len(content)}",
                file=self._folder / name,
                fix=RESTORE,
            )
        return content

    def close(self) -> None:
        """Close all; what is read afterwards is opened again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def _descriptor(self, name: str) -> int:
        known = self._open.get(name)
        if known is None:
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            known = self._open[name] = os.open(self._folder / name, os.O_RDONLY)
        return known


def part_of(path: Path) -> Part:
    """What is to be known of a file.

    Raises:
        DataError: If it cannot be read.
    """
    return Part(path.stat().st_size, sha256_of(path))


def require_parts(folder: Path, parts: Parts) -> None:
    """Refuse a folder that lacks a file or has one of another length; no file is read.

    Raises:
        DataError: Naming the first.
    """
    for name, part in parts.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            what = f"the store lacks this file ({error.strerror})"
            raise DataError(what, file=folder / name, fix=RESTORE) from error
        if found != part.bytes:
            what = f"expected {part.bytes} bytes, found {found}"
            raise DataError(what, file=folder / name, fix=RESTORE)
