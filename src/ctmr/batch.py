"""Translate scans: every one of a folder, or one, each with a sidecar; nothing is half done."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ctmr.ahead import one_ahead
from ctmr.dicom import Series, read_series
from ctmr.dicom_write import Derivation, write_series
from ctmr.doubts import QualityLevel
from ctmr.errors import (
    CtmrError,
    DataError,
    OutputError,
    SafetyError,
    UsageError,
    printable,
    refuse_all,
)
from ctmr.files import replacing_folder, require_writable, write_json
from ctmr.images import Image, Unit, add_image_info, read_image_info, write_image
from ctmr.intensity import FloatArray
from ctmr.jobs import Job, Reading, check_maps, find_inputs, plan_jobs
from ctmr.nifti import read_nifti, write_nifti
from ctmr.quality import Measure, Quality, require_like
from ctmr.scan import Scan, read_scan, write_scan
from ctmr.translate import DIRECTION_TO, Translation, Translator
from ctmr.volume import Modality, Volume, onto_grid

logger = logging.getLogger(__name__)

IMAGE_CYCLE_EVERY = 8  # with quality "fast" every eighth image is translated back too
MAP_WHITE = 0.25  # share of the range, and above it, that is white in the map of an image
OnError = Literal["stop", "skip"]
_OURS = re.compile(r"slice_\d{4,}\.dcm")


@dataclass(frozen=True)
class BatchSummary:
    """What a translation of scans did.

    Attributes:
        written: Scans written.
        skipped: Names of the inputs that could not be used.
        warned: Names whose quality is not `ok`.
        seconds: In all.
    """

    written: int
    skipped: tuple[str, ...]
    warned: tuple[str, ...]
    seconds: float


def translate_files(
    translator: Translator,
    source: Path,
    output: Path,
    to: Modality,
    *,
    quality: QualityLevel = "fast",
    on_error: OnError = "stop",
    reading: Reading | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BatchSummary:
    """Translate one scan, or a folder of scans: same names, same sizes, same grids.

    Args:
        translator: Of a model.
        source: An image, a NIfTI file, a folder with one DICOM series, or a folder of any of these; never written to.
        output: Of the same form.
        to: The modality wanted.
        quality: `fast` translates every eighth image, or every eighth slice of a volume, back; `full` all, and writes maps
            of doubt; `none` none.
        on_error: With `stop` one unusable input stops everything before it began.
        reading: What to believe of scans that say too little.
        progress: Called with scans done and scans to do.

    Raises:
        CtmrError: If inputs cannot be used (all are named), and `on_error` is `stop`; or an output cannot be written.
    """
    started = time.perf_counter()
    reading = reading or Reading()
    jobs = plan_jobs(translator, find_inputs(source), source, output, to, reading)
    require_writable(output, 0)
    if quality == "full":
        check_maps(jobs)
    if reading.like is not None and not any(job.kind == "nifti" for job in jobs):
        raise UsageError("--like is for NIfTI inputs: found none", file=source, fix="leave it out")
    # A single volume is read once only; nothing is written before that.
    alone = len(jobs) == 1 and jobs[0].kind != "image" and on_error == "stop"
    bad = {} if alone else _unusable(translator, jobs, to, reading)
    if on_error == "stop":
        refuse_all(
            [(path.name, error) for path, error in bad.items()],
            f"of {len(jobs)} scans cannot be translated",
            file=source,
            fix="restore or remove these files, or leave them out with --on-error skip",
        )
    for error in bad.values():
        logger.warning("skipped: %s", error)
    jobs = [job for job in jobs if job.source not in bad]
    for job in jobs:
        if job.kind == "series" or (job.kind == "nifti" and reading.like is not None):
            _require_replaceable(job)
    _write_info(translator, jobs, to)
    warned = []

    def read(job: Job) -> _Read:
        started = time.perf_counter()
        try:
            return _Read(job, *_read(job, to, reading), time.perf_counter() - started)
        except CtmrError as error:
            raise error.at(job.source) from error

    def translations() -> Iterator[tuple[_Read, Translation]]:
        for n, its in enumerate(one_ahead(read, jobs)):
            images_turn = (
                quality == "fast" and n % IMAGE_CYCLE_EVERY > 0 and its.job.kind == "image"
            )
            yield its, _translate(translator, its, to, "none" if images_turn else quality, reading)

    def write(done: tuple[_Read, Translation]) -> dict[str, Any]:
        return _write(translator, *done, to, reading)

    for n, said in enumerate(one_ahead(write, translations())):
        if said["quality"]["level"] != "ok":
            warned.append(printable(jobs[n].source.name))
        if progress is not None:
            progress(n + 1, len(jobs))
    skipped = tuple(printable(path.name) for path in bad)
    return BatchSummary(len(jobs), skipped, tuple(warned), round(time.perf_counter() - started, 3))


@dataclass(eq=False)
class _Read:
    """A scan on its way: what was read, and the seconds of reading and translating so far."""

    job: Job
    scan: Scan
    series: Series | None
    seconds: float


def _translate(
    translator: Translator, its: _Read, to: Modality, quality: QualityLevel, reading: Reading
) -> Translation:
    """Translate one scan."""
    started = time.perf_counter()
    try:
        done = translator.translation(its.scan, to, quality=quality, anyway=reading.anyway)
        if not reading.anyway:
            _require_head(its.scan, done.quality)
    except CtmrError as error:
        raise error.at(its.job.source) from error
    its.seconds += time.perf_counter() - started
    return done


def _write(
    translator: Translator, its: _Read, done: Translation, to: Modality, reading: Reading
) -> dict[str, Any]:
    """Write one translation with its sidecar, which is returned."""
    job, series = its.job, its.series
    if series is not None and isinstance(done.scan, Volume):
        volume = done.scan if job.kind == "series" else onto_grid(done.scan, series.volume)
        about = _derivation(translator, job, to, reading)
        with replacing_folder(job.target) as folder:
            write_series(folder, volume, series, about)
    elif isinstance(done.scan, Image):
        write_image(job.target, done.scan)
    else:
        write_scan(job.target, done.scan)
    _write_maps(job, its.scan, done.maps)
    said = translator.sidecar(done, to, its.seconds) | _believed(job, reading)
    if series is not None and series.notes:
        logger.warning("%s: %s", printable(str(job.source)), "; ".join(series.notes))
        said["notes"] = list(series.notes)
    write_json(job.sidecar, said)
    return said


def _write_maps(job: Job, scan: Scan, maps: Mapping[Measure, FloatArray]) -> None:
    """Write maps of doubt (shares of the range) on the grid of their scan, marked as translations are."""
    for measure, share in maps.items():
        path = job.map_path(measure)
        if isinstance(scan, Image):
            write_image(path, Image(np.minimum(share / MAP_WHITE, 1) * 255, "grey", 8))
        else:
            said = f"{measure}, share of range (ctmr): research use only, not for diagnosis"
            # Neither CT nor MR, but in floating point as MR is.
            write_nifti(path, replace(scan, array=share, modality="mr"), said)


def _require_replaceable(job: Job) -> None:
    """Refuse to write a series over anything but an earlier translation, which has its sidecar beside it."""
    if not job.target.exists():
        return
    others = not job.target.is_dir() or [
        path for path in job.target.iterdir() if not _OURS.fullmatch(path.name)
    ]
    if others or (any(job.target.iterdir()) and not job.sidecar.exists()):
        raise OutputError(
            "expected a new folder, or an earlier translation: found other files",
            file=job.target,
            fix="choose another OUTPUT",
        )


def _read(job: Job, to: Modality, reading: Reading) -> tuple[Scan, Series | None]:
    """The scan, and the DICOM series it comes from or belongs to if it is to be written as one."""
    if job.kind == "series":
        series = read_series(job.source, irregular=reading.irregular)
        return series.volume, series
    if job.kind == "image":
        return read_scan(job.source), None
    volume = read_nifti(job.source, geometry=reading.geometry)
    if reading.like is None:
        return volume, None
    series = read_series(reading.like, irregular=reading.irregular)
    if series.volume.modality == to:
        raise SafetyError(
            f"expected with --like the series the NIfTI input was made of: found one that shows"
            f" {to.upper()} already",
            file=reading.like,
            fix="name that series",
        )
    onto_grid(volume, series.volume)  # before any work
    return volume, series


def _derivation(translator: Translator, job: Job, to: Modality, reading: Reading) -> Derivation:
    """What the files say of their origin; with `like` the source is not the series alone."""
    options = "anyway" if reading.anyway else ""
    if job.kind == "nifti":
        options += hashlib.sha256(job.source.read_bytes()).hexdigest()
    return Derivation(translator.model.card.sha256, DIRECTION_TO[to], version("ctmr"), options)


def _believed(job: Job, reading: Reading) -> dict[str, Any]:
    """What the sidecar says of what the user vouched for."""
    said: dict[str, Any] = {}
    if job.kind == "nifti" and reading.geometry is not None:
        said["geometry"] = reading.geometry
    like = job.kind == "nifti" and reading.like is not None
    if like:
        said["like"] = True
    if (like or job.kind == "series") and reading.irregular:
        said["irregular"] = True
    if reading.anyway:
        said["anyway"] = True
    return said


def _unusable(
    translator: Translator, jobs: Sequence[Job], to: Modality, reading: Reading
) -> dict[Path, CtmrError]:
    """Read every input once before any work; what ails those that cannot be translated."""
    bad: dict[Path, CtmrError] = {}
    for job in jobs:
        try:
            scan = _read(job, to, reading)[0]
            quality = translator.check(scan, to, anyway=reading.anyway)
            if not reading.anyway:
                _require_head(scan, quality)
        except CtmrError as error:
            bad[job.source] = error.at(job.source)
    return bad


def _require_head(scan: Scan, quality: Quality) -> None:
    """Refuse what shows nothing, or nothing that the model knows."""
    if isinstance(scan, Image) and scan.array.min() == scan.array.max():
        raise DataError(
            f"expected an image of a head: found one grey value ({scan.array.min():g}) everywhere",
            fix="remove it, or give --anyway",
        )
    require_like(quality)


def _write_info(translator: Translator, jobs: Sequence[Job], to: Modality) -> None:
    """Say HU and spacing of translated images in a `ctmr.json` beside them, where there is something to say."""
    images = [job for job in jobs if job.kind == "image"]
    if images:
        info = read_image_info(images[0].source.parent)
        spacings = {job.target.name: info.spacing_of(job.source.name) for job in images}
        unit: Unit = "HU" if translator.conversion.writes_hu(to) else "grey"
        add_image_info(images[0].target.parent, unit, spacings)
