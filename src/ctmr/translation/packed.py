"""A translated volume that goes to its file slice by slice, so that few of its slices are held in memory."""

import contextlib
import functools
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ctmr.imaging.image import Scan
from ctmr.imaging.volume import Volume
from ctmr.io.nifti import is_nifti_name, nifti_parts
from ctmr.io.scan import DESCRIPTION
from ctmr.system.files import cannot_write, persistently
from ctmr.system.nameless import name_file, nameless_file
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
        if name_file(self._content, place):
            return
        self._content.seek(0)
        with place.open("wb") as file:
            shutil.copyfileobj(self._content, file)


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
            file = failing.enter_context(nameless_file(folder))
        except OSError as error:
            raise cannot_write(path, error) from error
        for part in parts:
            persistently(functools.partial(_write_at, file, file.tell(), part, path))
        failing.pop_all()
    return file


def _write_at(file: BinaryIO, place: int, part: bytes, path: Path) -> None:
    try:
        file.seek(place)
        rest = memoryview(part)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise cannot_write(path, error) from error
