"""The first look at all scans of a data folder: which can be used, and what they are."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctmr.data.sources import Source
from ctmr.data.store import Overlap
from ctmr.errors import CtmrError, DataError, SafetyError, refuse_all
from ctmr.imaging.ct_values import with_ct_values
from ctmr.imaging.descriptors import shows_head
from ctmr.imaging.image import Image, luma
from ctmr.imaging.label_maps import NotAScan, require_scan
from ctmr.imaging.modality import as_modality
from ctmr.imaging.resampling import Scale
from ctmr.imaging.slices import head_slices
from ctmr.imaging.volume import Volume
from ctmr.io.image_info import read_bytes
from ctmr.io.images import image_of
from ctmr.io.listing import shown
from ctmr.io.scan import content_hash, read_with_series
from ctmr.types import MODALITIES, NAMES, Encoding, Modality, Progress, Spacing

VOLUMES_AT_ONCE = 4  # each takes some hundred MB
Histogram = NDArray[np.int64]
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Look:
    """What the first look at one scan found; the pixels are not kept.

    Attributes:
        sha256: Of the content.
        shape: Of the image; of a volume, of the window that is kept of its slices.
        spacing_mm: Of an image that has one.
        encoding: What decides the map to [-1, 1].
        headless: Whether no head is found in it.
        foreign: Whether only `--anyway` lets it in, as another modality or no scan.
        signed: Whether its values are taken for HU by their looks alone.
        patient: Of a DICOM series, a hash of its patient's identity.
        heights_mm: Of a volume's slices that are kept, below the top of the head.
        notes: What a series lacks, or what was left out of it.
    """

    sha256: str
    shape: tuple[int, int]
    spacing_mm: Spacing | None
    encoding: Encoding
    colour: bool = False
    transparent: bool = False
    headless: bool = False
    foreign: bool = False
    signed: bool = False
    patient: str | None = None
    heights_mm: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Survey:
    """All images that can be used, and the 16-bit grey values of each training folder."""

    looks: list[tuple[Source, Look]]
    histograms: dict[Modality, Histogram]


def hash_all(pool: ThreadPoolExecutor, sources: Sequence[Source]) -> list[str] | None:
    """SHA-256 of each scan; None if one cannot be read (the survey then says which)."""

    def sha256(source: Source, _: int) -> str | None:
        try:
            return content_hash(source.path, source.kind, source.files)
        except DataError:
            return None

    hashes = [found for found in each(pool, sha256, sources, None) if found is not None]
    return hashes if len(hashes) == len(sources) else None


class Read(NamedTuple):
    """A source's volume as the modality of its folder."""

    volume: Volume
    patient: str | None
    """A hash of its patient's identity if it has one."""
    foreign: bool
    """Whether only `--anyway` lets it in, as another modality or no scan."""
    notes: tuple[str, ...]
    """Of a series; see `Look.notes`."""


def read_volume(source: Source) -> Read:
    """A source's volume.

    Raises:
        CtmrError: If it cannot be read, is another modality, or its geometry is not certain.
    """
    # A network learns slices one by one: how far apart they lie does not matter.
    reading = replace(source.reading, irregular=True)
    scan, series = read_with_series(
        source.path, modality=source.modality, reading=reading, files=source.files
    )
    if not isinstance(scan, Volume):
        raise TypeError(f"source must be a volume: got {source!r}")
    patient = series.patient if series is not None else None
    notes = series.notes if series is not None else ()
    if series is not None and not series.even:
        notes = (*notes, "its slices lie unevenly")
    foreign = False
    try:
        require_scan(scan)
        volume = as_modality(scan, source.modality)
    except (SafetyError, NotAScan) as error:
        if not source.reading.anyway:
            raise error.at(source.path) from error
        volume, foreign = as_modality(scan, source.modality, anyway=True), True
    return Read(volume, patient, foreign, notes)


def image_of_source(source: Source, content: bytes, channels: Literal[1, 3] | None = None) -> Image:
    """A source's image, decoded from its content; a CT with the values that the user vouched for.

    Raises:
        DataError: If it cannot be decoded.
    """
    image = image_of(content, source.path, channels, source.info)
    if not source.reading.anyway:
        require_scan(image)
    if source.modality == "mr" or source.reading.ct_values is None:
        return image
    vouched = with_ct_values(image, source.reading.ct_values)
    return vouched if isinstance(vouched, Image) else image


def survey(
    pool: ThreadPoolExecutor,
    sources: Sequence[Source],
    progress: Progress | None,
    size: int,
    scale: Scale | None,
) -> Survey:
    """Decode every scan once; `scale` is that of volumes, whose slices are for crops of `size` pixels.

    Raises:
        CtmrError: Naming every scan that cannot be used.
    """
    looks: list[tuple[Source, Look]] = []
    histograms: dict[Modality, Histogram] = {}
    failures: list[tuple[Source, CtmrError]] = []
    left_out: list[tuple[Source, NotAScan]] = []

    def look_at(source: Source, _: int) -> tuple[Look | CtmrError, Histogram | None]:
        if source.kind == "image":
            return _look(source)
        return _look_at_volume(source, size, scale), None

    found = each(pool, look_at, sources, progress)
    for source, (look, histogram) in zip(sources, found, strict=True):
        if isinstance(look, NotAScan):
            left_out.append((source, look))
            continue
        if isinstance(look, CtmrError):
            failures.append((source, look))
            continue
        looks.append((source, look))
        if histogram is not None:
            histograms[source.modality] = histograms.get(source.modality, 0) + histogram
    refuse(failures, len(sources))
    _leave_out(left_out, looks)
    what = "had transparent pixels, which were put on black"
    _say_which(looks, "transparent", what, logging.WARNING)
    what = "are in colour; one channel of them is 0.299 R + 0.587 G + 0.114 B"
    _say_which(looks, "colour", what, logging.INFO)
    _say_which(looks, "headless", "show nothing like a head", logging.WARNING)
    _say_which(looks, "signed", "hold signed values with air, taken for HU", logging.WARNING)
    for note in dict.fromkeys(note for _, look in looks for note in look.notes):
        names = [source.label for source, look in looks if note in look.notes]
        logger.warning("%d of %d scans: %s: %s", len(names), len(looks), note, shown(names))
    return Survey(looks, histograms)


def _leave_out(
    left_out: Sequence[tuple[Source, NotAScan]], looks: Sequence[tuple[Source, Look]]
) -> None:
    """Warn of what is no scan; refuse a training folder with nothing else."""
    for modality in MODALITIES:
        names = [source.label for source, _ in left_out if source.modality == modality]
        if not names:
            continue
        some = shown(names)
        logger.warning(
            "left out %d masks, label maps or maps of probabilities: %s", len(names), some
        )
        if not any((s.split, s.modality) == ("train", modality) for s, _ in looks):
            raise DataError(
                f"expected {NAMES[modality]} to train on: found only masks and label maps ({some})",
                file=left_out[0][0].data,
                fix="put scans there, or give --anyway if these are scans",
            )


def let_in(found: Survey) -> dict[str, int]:
    """How many scans only `--anyway` lets in, by reason."""
    volumes = [look for _, look in found.looks if look.heights_mm is not None]
    counts = {
        "wrong modality or no scan": sum(look.foreign for look in volumes),
        "no head": sum(look.headless for look in volumes),
    }
    return {reason: count for reason, count in counts.items() if count}


def overlap(found: Survey) -> tuple[Overlap, ...]:
    """Test images whose content, or whose patient, is in a training folder too."""
    train = [(source, look) for source, look in found.looks if source.split == "train"]
    contents = {look.sha256: source.label for source, look in train}
    patients = {patient_of(*seen): seen[0].label for seen in train if patient_of(*seen)}
    overlaps = []
    for source, look in found.looks:
        if source.split == "test" and look.sha256 in contents:
            overlaps.append(Overlap(contents[look.sha256], source.label, "identical"))
        elif source.split == "test" and patient_of(source, look) in patients:
            overlaps.append(Overlap(patients[patient_of(source, look)], source.label, "patient"))
    return tuple(overlaps)


def patient_of(source: Source, look: Look) -> str | None:
    """What the patient pattern found, else the hash from a DICOM header."""
    return source.patient or look.patient


def refuse(failures: Sequence[tuple[Source, CtmrError]], scans: int) -> None:
    """One error that names every scan of a data folder that cannot be used, if there are any."""
    if failures:
        refuse_all(
            [(source.label, error) for source, error in failures],
            f"of {scans} scans cannot be used",
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
    if any(source.kind != "image" for source in sources):
        few = min(few, VOLUMES_AT_ONCE)
    for start in range(0, len(sources), few):
        numbers = range(start, min(start + few, len(sources)))
        yield from pool.map(function, sources[start : start + few], numbers)
        if progress is not None:
            progress(done + numbers.stop, 2 * len(sources))


def _look_at_volume(source: Source, size: int, scale: Scale | None) -> Look | CtmrError:
    """What one volume is, or why it cannot be used."""
    if scale is None:
        raise ValueError("volumes need a scale")
    try:
        sha256 = content_hash(source.path, source.kind, source.files)
        volume, patient, foreign, notes = read_volume(source)
        anyway = source.reading.anyway
        found = head_slices(volume, source.modality, scale, size, anyway=anyway)
    except CtmrError as error:
        return error.at(source.path)
    return Look(
        sha256=sha256,
        shape=found.window[2:],
        spacing_mm=None,
        encoding=volume.encoding,
        headless=not found.head.is_found,
        foreign=foreign,
        patient=patient,
        heights_mm=found.heights_mm,
        notes=notes,
    )


def _look(source: Source) -> tuple[Look | CtmrError, Histogram | None]:
    """What one image is, or why it cannot be used; and its grey values if they decide the range."""
    try:
        content = read_bytes(source.path)
        image = image_of_source(source, content)
        _require_grey_mr(source, image)
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
        headless=not shows_head(image),
        signed=source.reading.ct_values is None and image.unit == "HU" != source.info.unit,
    )
    return look, histogram


def _require_grey_mr(source: Source, image: Image) -> None:
    """Refuse an MR image in HU, which no `ctmr.json` says."""
    if source.modality == "mr" and image.unit == "HU":
        raise DataError(
            "expected grey values of an MR: found signed values that look like HU",
            file=source.path,
            fix="move it to the folder of CT, or save unsigned values",
        )


def _say_which(looks: Sequence[tuple[Source, Look]], which: str, what: str, level: int) -> None:
    names = [source.label for source, look in looks if vars(look)[which]]
    if names:
        logger.log(level, "%d of %d scans %s: %s", len(names), len(looks), what, shown(names))
