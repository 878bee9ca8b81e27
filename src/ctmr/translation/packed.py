"""A translated volume that goes to its file slice by slice, so that few of its slices are held in memory."""

import contextlib
import functools
import os
import secrets
import shutil
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ctmr.imaging.image import Scan
from ctmr.imaging.volume import Volume
from ctmr.io.nifti import is_nifti_name, nifti_parts
from ctmr.io.scan import DESCRIPTION
from ctmr.system.disks import lock
from ctmr.system.files import cannot_write, persistently
from ctmr.translation.preprocessing import NetworkInput
from ctmr.translation.preview import Glance
from ctmr.types import FloatArray


class Packed:
    """The bytes of a translated volume's file, on disk without a name until all is known to be well.

    Args:
        content: The bytes; closed with this object.
        glance: What a preview shows of the volume.
    """

    def __init__(self, content: BinaryIO, glance: Glance) -> None:
        self.glance = glance
        self._content, self._size = content, content.tell()
        weakref.finalize(self, content.close)

    def __len__(self) -> int:
        return self._size

    def put_at(self, place: Path) -> None:
        """Put the bytes in the place of a draft: by a name for them where the system can, so that no disk holds them twice.

        Raises:
            OSError: If they cannot be written.
        """
        if self._named(place):
            return
        self._content.seek(0)
        with place.open("wb") as file:
            shutil.copyfileobj(self._content, file)

    def _named(self, place: Path) -> bool:
        """Give the bytes the name of a draft; whether that is possible here."""
        if os.link not in os.supports_dir_fd:
            return False
        descriptor = self._content.fileno()
        name = place.with_name(f".{secrets.token_hex(8)}.tmp")  # as drafts are called and held
        try:
            lock(descriptor, wait=True)
            os.fchmod(descriptor, stat.S_IMODE(place.stat().st_mode))
            # Only with some `src_dir_fd` Python follows the link in /proc; that name being absolute, it counts for nothing.
            os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)
            name.replace(place)
        except OSError:
            with contextlib.suppress(OSError):
                name.unlink(missing_ok=True)
            return False
        return True


def gather_for(target: Path, made: NetworkInput) -> Callable[[Iterator[FloatArray]], Scan | Packed]:
    """What the slices of a translation become: its file where that is NIfTI and has them in their order, else a scan."""
    outline = made.outline
    if (
        isinstance(outline, Volume)
        and made.head is not None
        and is_nifti_name(target)
        and outline.axes[2] == "S"
    ):
        return functools.partial(_packed, target, outline, Glance(outline, made.head.centre))
    return made.whole


def _packed(target: Path, outline: Volume, glance: Glance, planes: Iterator[FloatArray]) -> Packed:
    def slabs() -> Iterator[FloatArray]:
        for some in planes:
            glance.add(some)
            yield outline.from_axial(some)

    parts = nifti_parts(target, outline, DESCRIPTION, slabs())
    return Packed(unnamed_file(parts, target), glance)


def unnamed_file(parts: Iterable[bytes], path: Path) -> BinaryIO:
    """Write bytes, as they come, to a file without a name on the disk of `path`: it is gone once it is closed.

    Raises:
        OutputError: If they cannot be written, each part in up to four attempts.
    """
    folder = next(above for above in path.absolute().parents if above.is_dir())
    with contextlib.ExitStack() as failing:
        try:
            file = failing.enter_context(_nameless(folder))
        except OSError as error:
            raise cannot_write(path, error) from error
        for part in parts:
            persistently(functools.partial(_write_at, file, file.tell(), part, path))
        failing.pop_all()
    return file


def _nameless(folder: Path) -> BinaryIO:
    """A file that may be given a name later, where the system has such; else one that may not."""
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
            return open(descriptor, "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0, dir=folder)


def _write_at(file: BinaryIO, place: int, part: bytes, path: Path) -> None:
    try:
        file.seek(place)
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise cannot_write(path, error) from error
