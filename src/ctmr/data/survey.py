"""The first look at all scans of a data folder: which can be used, and what they are."""

import hashlib
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctmr.data.looks import FLAGS, Look, Looks
from ctmr.data.manifest import Overlap
from ctmr.data.sources import Source
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
from ctmr.system.parallel import Workers, cores
from ctmr.types import MODALITIES, NAMES, Modality, Progress

IMAGES_AT_ONCE = 16
Histogram = NDArray[np.int64]
Histograms = dict[Modality, Histogram]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Survey:
    """All scans that can be used, and the 16-bit grey values of each training folder; iterates over scans and looks."""

    sources: Sequence[Source]
    looks: Looks
    histograms: Histograms

    def __iter__(self) -> Iterator[tuple[Source, Look]]:
        return zip(self.sources, self.looks, strict=True)


def hash_all(sources: Sequence[Source], digest: Callable[[Path], bytes]) -> bytes | None:
    """SHA-256 of each scan, 32 bytes after the other; None if one cannot be read (the survey then says which).

    Args:
        sources: The scans.
        digest: SHA-256 of a file.
    """

    def hashes(few: Sequence[Source]) -> bytes:
        found = [content_hash(each.path, each.kind, each.files, digest) for each in few]
        return bytes.fromhex("".join(found))

    with Workers(cores(), processes=False) as workers:
        try:
            return b"".join(workers.map(hashes, batches(sources)))
        except DataError:
            return None


def batches(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """A few images, or one volume, at a time."""
    places = iter(sources)
    while few := list(islice(places, 1)):
        if few[0].kind == "image":
            few += islice(places, IMAGES_AT_ONCE - 1)
        yield few


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
    workers: Workers,
    sources: Sequence[Source],
    progress: Progress | None,
    size: int,
    scale: Scale | None,
) -> Survey:
    """Decode every scan once; `scale` is that of volumes, whose slices are for crops of `size` pixels.

    Raises:
        CtmrError: Naming every scan that cannot be used.
    """
    looks, kept = Looks(), array("Q")
    histograms: Histograms = {}
    failures: list[tuple[Source, CtmrError]] = []
    left_out: list[tuple[Source, NotAScan]] = []
    done = 0
    for found, more in workers.map(partial(_look_at, size=size, scale=scale), batches(sources)):
        for n, look in enumerate(found, start=done):
            if isinstance(look, NotAScan):
                left_out.append((sources[n], look))
            elif isinstance(look, CtmrError):
                failures.append((sources[n], look))
            else:
                looks.append(look)
                kept.append(n)
        for modality, histogram in more.items():
            histograms[modality] = histograms.get(modality, 0) + histogram
        done += len(found)
        if progress is not None:
            progress(done, 2 * len(sources))
    refuse(failures, len(sources))
    good = sources if len(kept) == len(sources) else [sources[n] for n in kept]
    result = Survey(good, looks, histograms)
    _leave_out(left_out, good)
    _say_what_was_seen(result)
    return result


def _say_what_was_seen(found: Survey) -> None:
    """Log what is remarkable about the scans, with the names of the first."""
    what = "had transparent pixels, which were put on black"
    _say_which(found, "transparent", what, logging.WARNING)
    what = "are in colour; one channel of them is 0.299 R + 0.587 G + 0.114 B"
    _say_which(found, "colour", what, logging.INFO)
    _say_which(found, "headless", "show nothing like a head", logging.WARNING)
    _say_which(found, "signed", "hold signed values with air, taken for HU", logging.WARNING)
    notes: dict[str, list[str]] = {}
    for source, look in found:
        for note in look.notes:
            notes.setdefault(note, []).append(source.label)
    for note, names in notes.items():
        logger.warning("%d of %d scans: %s: %s", len(names), len(found.looks), note, shown(names))


def _leave_out(left_out: Sequence[tuple[Source, NotAScan]], good: Iterable[Source]) -> None:
    """Warn of what is no scan; refuse a training folder with nothing else."""
    for modality in MODALITIES:
        names = [source.label for source, _ in left_out if source.modality == modality]
        if not names:
            continue
        some = shown(names)
        logger.warning(
            "left out %d masks, label maps or maps of probabilities: %s", len(names), some
        )
        if not any((s.split, s.modality) == ("train", modality) for s in good):
            raise DataError(
                f"expected {NAMES[modality]} to train on: found only masks and label maps ({some})",
                file=left_out[0][0].data,
                fix="put scans there, or give --anyway if these are scans",
            )


def let_in(found: Survey) -> dict[str, int]:
    """How many scans only `--anyway` lets in, by reason."""
    counts = {"wrong modality or no scan": 0, "no head": 0}
    for look in found.looks:
        if look.heights_mm is not None:
            counts["wrong modality or no scan"] += look.foreign
            counts["no head"] += look.headless
    return {reason: count for reason, count in counts.items() if count}


def overlap(found: Survey) -> list[Overlap]:
    """Test images whose content, or whose patient, is in a training folder too."""
    contents: dict[str, str] = {}
    patients: dict[str, str] = {}
    for source, look in found:
        if source.split == "test":
            contents[look.sha256] = ""
            if patient := patient_of(source, look):
                patients[patient] = ""
    for source, look in found:
        if source.split == "train":
            if look.sha256 in contents:
                contents[look.sha256] = source.label
            patient = patient_of(source, look)
            if patient in patients:
                patients[patient] = source.label
    overlaps = []
    for source, look in found:
        if source.split == "test":
            if contents[look.sha256]:
                overlaps.append(Overlap(contents[look.sha256], source.label, "identical"))
            elif train := patients.get(patient_of(source, look) or ""):
                overlaps.append(Overlap(train, source.label, "patient"))
    return overlaps


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


def _look_at(
    sources: Sequence[Source], size: int, scale: Scale | None
) -> tuple[list[Look | CtmrError], Histograms]:
    """What some scans are, or why they cannot be used; and the grey values that decide the range."""
    found: list[Look | CtmrError] = []
    histograms: Histograms = {}
    for source in sources:
        if source.kind != "image":
            found.append(_look_at_volume(source, size, scale))
            continue
        look, histogram = _look(source)
        found.append(look)
        if histogram is not None:
            histograms[source.modality] = histograms.get(source.modality, 0) + histogram
    return found, histograms


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


def _say_which(found: Survey, which: str, what: str, level: int) -> None:
    bit = FLAGS.index(which)
    names = [source.label for source, look in found if look.flags >> bit & 1]
    if names:
        logger.log(level, "%d of %d scans %s: %s", len(names), len(found.looks), what, shown(names))
