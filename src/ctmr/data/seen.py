"""What is known of the files of a data folder by name, size and modification time, so that they need not be read again."""

import hashlib
import json
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctmr.data.sources import LAYOUTS
from ctmr.errors import OutputError
from ctmr.system.cache import cache_folder
from ctmr.system.files import content_digest, replacing

FORMAT = "ctmr seen 1"
MAX_ASKED = 64  # sets of settings whose store is remembered
_FILE = np.dtype(
    [("key", "<u8"), ("more", "<u8"), ("size", "<u8"), ("mtime", "<i8"), ("sha", "V32")]
)
_LAYOUT = struct.Struct("<QQQq32s")

logger = logging.getLogger(__name__)


class Seen:
    """What earlier calls found in a data folder; it lies in the user's cache, or is nothing where there is none.

    A change that keeps a file's name, size and modification time is not seen: `verify` reads all files.

    Args:
        data: The data folder.
        asked: All that decides, beside the files, what a store of it is.
        verify: Believe nothing of it.
    """

    def __init__(self, data: Path, asked: str, *, verify: bool = False) -> None:
        self._data, self._verify = os.fsencode(data), verify
        self._asked = hashlib.sha256(asked.encode()).hexdigest()
        name = hashlib.sha256(os.fsencode(os.path.realpath(data))).hexdigest()[:32]
        try:
            self._place: Path | None = cache_folder() / "seen" / f"{name}.bin"
        except OutputError:
            self._place = None
        self._tree = tree_digest(data)
        self._trees: dict[str, list[str]] = {}
        self._found = bytearray()
        self.changed: list[str] = []
        """With `verify`: files whose content changed though their size and time did not."""
        self._files_at = self._read()

    @property
    def fingerprint(self) -> str | None:
        """Of the store that was made of the same files and settings, if it is known."""
        tree, fingerprint = self._trees.get(self._asked, ("", ""))
        return fingerprint if tree == self._tree and not self._verify else None

    def digest(self, path: Path) -> bytes:
        """SHA-256 of a file, which is read unless its size and modification time are known.

        Raises:
            OSError: If it cannot be read.
        """
        status = path.stat()
        below = os.fsencode(path).removeprefix(self._data)
        key, more = struct.unpack("<QQ", hashlib.blake2b(below, digest_size=16).digest())
        keys, files = self._known
        place = int(np.searchsorted(keys, np.uint64(key)))
        known = None
        if place < len(files):
            found = files[place]
            fixed = key, more, status.st_size, status.st_mtime_ns
            if tuple(int(found[name]) for name in ("key", "more", "size", "mtime")) == fixed:
                known = found["sha"].tobytes()
        digest: bytes = content_digest(path) if known is None or self._verify else known
        if known is not None and digest != known:
            self.changed.append(os.fsdecode(below.lstrip(b"/")))
        self._found += _LAYOUT.pack(key, more, status.st_size, status.st_mtime_ns, digest)
        return digest

    def remember(self, fingerprint: str) -> None:
        """Keep what was found for the next call; the folder is as it was when this was made."""
        if self._place is None or self.fingerprint == fingerprint:
            return
        self._trees.pop(self._asked, None)
        self._trees[self._asked] = [self._tree, fingerprint]
        kept = dict(list(self._trees.items())[-MAX_ASKED:])
        files = np.frombuffer(self._found, _FILE)
        files = files[np.argsort(files["key"])]
        head = json.dumps({"format": FORMAT, "trees": kept}).encode() + b"\n"
        try:
            with replacing(self._place) as draft, draft.open("wb") as stream:
                stream.write(head)
                stream.write(files.data)
        except OutputError as error:
            logger.info("what was seen of the data is not kept: %s", error)

    def _read(self) -> int:
        """Take over what an earlier call kept of the whole; what cannot be understood is nothing.

        Returns:
            Where what it kept of each file begins; 0 if nowhere.
        """
        if self._place is None:
            return 0
        try:
            with self._place.open("rb") as stream:
                head = json.loads(stream.readline(MAX_ASKED * 1000))
                if head["format"] == FORMAT:
                    trees = head["trees"].items()
                    self._trees = {str(key): [str(a), str(b)] for key, (a, b) in trees}
                    return stream.tell()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return 0

    @cached_property
    def _known(self) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
        """What an earlier call kept of each file, by ascending keys; and the keys."""
        files = np.empty(0, _FILE)
        if self._place is not None and self._files_at:
            with suppress(OSError, ValueError), self._place.open("rb") as stream:
                stream.seek(self._files_at)
                files = np.frombuffer(stream.read(), _FILE)
        return np.ascontiguousarray(files["key"]), files


def tree_digest(data: Path) -> str:
    """SHA-256 over the names, sizes and modification times of the files that a data folder's scans may come from."""
    whole = hashlib.sha256()
    try:
        names = sorted(os.listdir(data), key=os.fsencode)
    except OSError:
        names = []
    whole.update(repr(names).encode())
    parts = {name.split("/")[0] for layout in LAYOUTS for name in layout.values()}
    for name in sorted(parts.intersection(names)) or names:
        for line in _files(os.path.join(data, name), set()):
            whole.update(line)
    return whole.hexdigest()


def _files(path: str, above: set[tuple[int, int]]) -> Iterator[bytes]:
    """A line for each file below a path, and itself; links are followed, but not in a circle."""
    try:
        status = os.stat(path)
        folder = (status.st_dev, status.st_ino)
        entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
    except NotADirectoryError:
        yield b"%s\0%d\0%d\n" % (os.fsencode(path), status.st_size, status.st_mtime_ns)
        return
    except OSError as error:
        yield b"%s\0%s\n" % (os.fsencode(path), str(error.errno).encode())
        return
    if folder in above:
        return
    for entry in entries:
        try:
            if entry.is_dir():
                yield from _files(entry.path, above | {folder})
                continue
            status = entry.stat()
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:
            size, mtime = -1, -1
        yield b"%s\0%d\0%d\n" % (os.fsencode(entry.name), size, mtime)
    yield b"/%s\n" % os.fsencode(os.path.basename(path))
