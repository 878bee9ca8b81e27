"""The first look at all images of a data folder: which can be used, and what they are."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError, printable
from ctmr.folders import Source
from ctmr.pixels import luma
from ctmr.scale import Spacing
from ctmr.scan import Encoding, image_of, read_bytes
from ctmr.store import Modality, Overlap

Histogram = NDArray[np.int64]
Progress = Callable[[int, int], None]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Look:
    """What the first look at one image found; the pixels are not kept."""

    sha256: str
    shape: tuple[int, int]
    spacing_mm: Spacing | None
    encoding: Encoding
    colour: bool
    transparent: bool


@dataclass(frozen=True, eq=False)
class Survey:
    """All images that can be used, and the 16-bit grey values of each training folder."""

    looks: list[tuple[Source, Look]]
    histograms: dict[Modality, Histogram]


def hash_all(pool: ThreadPoolExecutor, sources: Sequence[Source]) -> list[str] | None:
    """SHA-256 of each file; None if one cannot be read (the survey then says which)."""

    def sha256(source: Source, _: int) -> str | None:
        try:
            return hashlib.sha256(read_bytes(source.path)).hexdigest()
        except DataError:
            return None

    hashes = [found for found in each(pool, sha256, sources, None) if found is not None]
    return hashes if len(hashes) == len(sources) else None


def survey(
    pool: ThreadPoolExecutor, sources: Sequence[Source], progress: Progress | None
) -> Survey:
    """Decode every image once.

    Raises:
        DataError: Naming every image that cannot be used.
    """
    looks: list[tuple[Source, Look]] = []
    histograms: dict[Modality, Histogram] = {}
    failures: list[tuple[Source, DataError]] = []
    found = each(pool, _look, sources, progress)
    for source, (look, histogram) in zip(sources, found, strict=True):
        if isinstance(look, DataError):
            failures.append((source, look))
            continue
        looks.append((source, look))
        if histogram is not None:
            histograms[source.modality] = histograms.get(source.modality, 0) + histogram
    refuse_all(failures, len(sources))
    _say_which(looks, "transparent", "had transparent pixels, which were put on black")
    _say_which(looks, "colour", "are in colour; one channel of them is 0.299 R + 0.587 G + 0.114 B")
    return Survey(looks, histograms)


def overlap(found: Survey) -> tuple[Overlap, ...]:
    """Test images whose content, or whose patient, is in a training folder too."""
    train = [(source, look) for source, look in found.looks if source.split == "train"]
    contents = {look.sha256: source.label for source, look in train}
    patients = {source.patient: source.label for source, _ in train if source.patient}
    both = []
    for source, look in found.looks:
        if source.split == "test" and look.sha256 in contents:
            both.append(Overlap(contents[look.sha256], source.label, "identical"))
        elif source.split == "test" and source.patient in patients:
            both.append(Overlap(patients[source.patient], source.label, "patient"))
    return tuple(both)


def refuse_all(failures: Sequence[tuple[Source, DataError]], images: int) -> None:
    """One error that names every image that cannot be used, if there are any."""
    if len(failures) == 1:
        raise failures[0][1]
    if failures:
        said = "; ".join(f"{printable(source.label)} ({error.what})" for source, error in failures)
        raise DataError(
            f"{len(failures)} of {images} images cannot be used: {said}",
            file=failures[0][0].data,
            fix="restore or remove these files",
        )


def each(
    pool: ThreadPoolExecutor,
    function: Callable[[Source, int], Result],
    sources: Sequence[Source],
    progress: Progress | None,
    done: int = 0,
) -> Iterator[Result]:
    """`function(source, its number)` of all, in order, a few at a time so that memory stays flat."""
    few = 4 * (os.cpu_count() or 1)
    for start in range(0, len(sources), few):
        numbers = range(start, min(start + few, len(sources)))
        yield from pool.map(function, sources[start : start + few], numbers)
        if progress is not None:
            progress(done + numbers.stop, 2 * len(sources))


def _look(source: Source, _: int) -> tuple[Look | DataError, Histogram | None]:
    """What one image is, or why it cannot be used; and its grey values if they decide the range."""
    try:
        content = read_bytes(source.path)
        image = image_of(content, source.path, None, source.info)
    except DataError as error:
        return error, None
    colour = image.array.ndim == 3
    histogram: Histogram | None = None
    if image.encoding == "16-bit" and source.split == "train":
        grey = luma(image.array) if colour else image.array
        histogram = np.bincount(np.rint(grey).astype(np.int64).ravel(), minlength=65536)
    look = Look(
        sha256=hashlib.sha256(content).hexdigest(),
        shape=(image.array.shape[0], image.array.shape[1]),
        spacing_mm=image.spacing_mm,
        encoding=image.encoding,
        colour=colour,
        transparent=image.transparent,
    )
    return look, histogram


def _say_which(looks: Sequence[tuple[Source, Look]], which: str, what: str) -> None:
    names = [source.label for source, look in looks if vars(look)[which]]
    if names:
        shown = printable(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")
        logger.info("%d of %d images %s: %s", len(names), len(looks), what, shown)
