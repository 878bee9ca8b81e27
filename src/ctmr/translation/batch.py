"""Translate scans: every one of a folder, or one, each with a sidecar; nothing is half done."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctmr.errors import CtmrError, DataError, SafetyError, UsageError, printable, refuse_all
from ctmr.imaging.image import Scan
from ctmr.imaging.volume import onto_grid
from ctmr.io.dicom.series import Series, read_series
from ctmr.io.image_info import INFO_NAME
from ctmr.io.scan import info_within, read_scan_within
from ctmr.io.volumes import read_volume_file
from ctmr.models.quality import Quality, require_like
from ctmr.system.files import remove_drafts, require_writable
from ctmr.system.ownership import require_own
from ctmr.system.parallel import one_ahead
from ctmr.translation.plan import (
    Job,
    Reading,
    check_outputs,
    choose_jobs,
    find_inputs,
    plan_jobs,
    request_of,
)
from ctmr.translation.translator import Translation, Translator
from ctmr.translation.uncertainty import MAPPED, QualityLevel
from ctmr.translation.writer import (
    Input,
    earlier,
    require_replaceable,
    write_info,
    write_translation,
)
from ctmr.types import Modality

logger = logging.getLogger(__name__)

IMAGE_CYCLE_EVERY = 8  # with quality "fast" every eighth image is translated back too
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class BatchSummary:
    """What a translation of scans did.

    Attributes:
        written: Scans written.
        kept: Scans that an earlier call had written, with `resume`.
        skipped: Names of the inputs that could not be used, below the input folder.
        warned: Names whose quality is not `ok`.
        seconds: In all.
    """

    written: int
    kept: int
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
    resume: bool = False,
    overwrite: bool = False,
    only: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BatchSummary:
    """Translate one scan, or the scans of a folder and its sub-folders: same names, same sizes, same grids.

    Args:
        translator: Of a model.
        source: An image, a volume file, a folder with one DICOM series, or a tree of any of these; never written to.
        output: Of the same form, with the same sub-folders.
        to: The modality wanted.
        quality: `fast` translates every eighth image, or every eighth slice of a volume, back; `full` all, and writes maps
            of uncertainty; `none` none.
        on_error: With `stop` one unusable input stops everything before it began.
        reading: What to believe of scans that say too little.
        resume: Leave what an earlier call wrote of the same scan, model and options.
        overwrite: Replace files that ctmr did not write too; never an input, and never a `ctmr.json`.
        only: Translate the scans whose path below `source` matches this pattern, in which `*` stands for `/` too.
        progress: Called with scans done and scans to do.

    Raises:
        CtmrError: If inputs cannot be used (all are named), and `on_error` is `stop`; or an output cannot be written.
        OutputError: If a file would be replaced that ctmr did not write; this is found before any work.
    """
    started = time.perf_counter()
    reading = reading or Reading()
    inputs = find_inputs(source, output)
    jobs = choose_jobs(plan_jobs(translator, inputs, source, output, to, reading), only)
    check_outputs(jobs, inputs, quality)
    require_writable(output, 0)
    if reading.like is not None and not any(job.kind == "volume" for job in jobs):
        raise UsageError("--like is for volume files: found none", file=source, fix="leave it out")
    info_of = functools.cache(info_within)
    levels = {job: _level(n, job, quality) for n, job in enumerate(jobs)}

    def request(job: Job) -> str:
        info = info_of(job.source.parent, job.root) if job.kind == "image" else None
        return request_of(translator, job, to, quality, reading, info)

    warned = set[Job]()
    if resume:
        for folder in {job.target.parent for job in jobs}:
            remove_drafts(folder)
    done = _done_before(jobs, request, warned) if resume else []
    todo = set(jobs).difference(done)
    jobs = [job for job in jobs if job in todo]
    _require_free(jobs, inputs, quality, reading, overwrite)
    write_info(translator, [*done, *jobs], to, only_check=True)
    # A single volume is read once only; nothing is written before that.
    alone = len(jobs) == 1 and jobs[0].kind != "image" and on_error == "stop"
    bad = {} if alone else _unusable(translator, jobs, to, reading)
    if on_error == "stop":
        refuse_all(
            [(job.name, error) for job, error in bad.items()],
            f"of {len(jobs)} scans cannot be translated",
            file=source,
            fix="restore or remove these files, or leave them out with --on-error skip",
        )
    for error in bad.values():
        logger.warning("skipped: %s", error)
    jobs = [job for job in jobs if job not in bad]
    write_info(translator, [*done, *jobs], to)

    def read(job: Job) -> Input:
        started = time.perf_counter()
        try:
            its = request(job), *_read(job, to, reading)
            return Input(job, *its, time.perf_counter() - started)
        except CtmrError as error:
            raise error.at(job.source) from error

    def translations() -> Iterator[tuple[Input, Translation]]:
        for its in one_ahead(read, jobs):
            yield its, _translate(translator, its, to, levels[its.job], reading)

    def write(done: tuple[Input, Translation]) -> dict[str, Any]:
        return write_translation(translator, *done, to, reading, overwrite=overwrite)

    for n, said in enumerate(one_ahead(write, translations())):
        if _is_doubtful(said):
            warned.add(jobs[n])
        if progress is not None:
            progress(n + 1, len(jobs))
    skipped, warnings = (
        tuple(printable(job.name) for job in its)
        for its in (bad, [job for job in levels if job in warned])
    )
    seconds = round(time.perf_counter() - started, 3)
    return BatchSummary(len(jobs), len(done), skipped, warnings, seconds)


def _require_free(
    jobs: Sequence[Job],
    inputs: Sequence[Path],
    quality: QualityLevel,
    reading: Reading,
    overwrite: bool,
) -> None:
    """Refuse to replace inputs, or what ctmr did not write."""
    measures = MAPPED if quality == "full" else ()
    read = {*inputs, *(path.parent / INFO_NAME for path in inputs)}
    require_own(
        [path for job in jobs for path in job.paths(measures)],
        overwrite=overwrite,
        inputs=read if reading.like is None else {*read, reading.like},
        sidecars={path: its for job in jobs for path, its in job.sidecars(measures).items()},
    )
    for job in jobs:
        if job.kind == "series" or (job.kind == "volume" and reading.like is not None):
            require_replaceable(job)


def _level(n: int, job: Job, quality: QualityLevel) -> QualityLevel:
    """How much of the n-th scan is translated back."""
    turns = quality == "fast" and job.kind == "image"
    return "none" if turns and n % IMAGE_CYCLE_EVERY > 0 else quality


def _done_before(jobs: Sequence[Job], request: Callable[[Job], str], warned: set[Job]) -> list[Job]:
    """Those of which the same translation is there; the doubtful ones join `warned`."""
    done = []
    for job in jobs:
        with suppress(CtmrError):  # what cannot be read is named with all others
            said = earlier(job, request(job))
            if said is not None:
                done.append(job)
                if _is_doubtful(said):
                    warned.add(job)
    return done


def _is_doubtful(said: Mapping[str, Any]) -> bool:
    return bool(said["quality"]["level"] != "ok")


def _translate(
    translator: Translator, its: Input, to: Modality, quality: QualityLevel, reading: Reading
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


def _read(job: Job, to: Modality, reading: Reading) -> tuple[Scan, Series | None]:
    """The scan, and the DICOM series it comes from or belongs to if it is to be written as one."""
    if job.kind == "series":
        series = read_series(job.source, irregular=reading.irregular)
        return series.volume, series
    if job.kind == "image":
        return read_scan_within(job.source, job.root), None
    volume = read_volume_file(job.source, geometry=reading.geometry)
    if reading.like is None:
        return volume, None
    series = read_series(reading.like, irregular=reading.irregular)
    if series.volume.modality == to:
        raise SafetyError(
            f"expected with --like the series the volume file was made of: found one that shows"
            f" {to.upper()} already",
            file=reading.like,
            fix="name that series",
        )
    onto_grid(volume, series.volume)  # before any work
    return volume, series


def _unusable(
    translator: Translator, jobs: Sequence[Job], to: Modality, reading: Reading
) -> dict[Job, CtmrError]:
    """Read every input once before any work; what ails those that cannot be translated."""
    bad: dict[Job, CtmrError] = {}
    for job in jobs:
        try:
            scan = _read(job, to, reading)[0]
            quality = translator.check(scan, to, anyway=reading.anyway)
            if not reading.anyway:
                _require_head(scan, quality)
        except CtmrError as error:
            bad[job] = error.at(job.source)
    return bad


def _require_head(scan: Scan, quality: Quality) -> None:
    """Refuse what shows nothing, or nothing that the model knows."""
    if scan.array.min() == scan.array.max():
        raise DataError(
            f"expected an image of a head: found one grey value ({scan.array.min():g}) everywhere",
            fix="remove it, or give --anyway",
        )
    require_like(quality)
