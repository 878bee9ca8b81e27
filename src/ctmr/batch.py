"""Translate files: every image of a folder, or one, each with a sidecar; nothing is half done."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ctmr.cyclegan import Modality
from ctmr.errors import DataError, UsageError, printable
from ctmr.files import write_json
from ctmr.quality import Quality
from ctmr.scan import (
    FORMATS,
    ImageInfo,
    Unit,
    add_image_info,
    find_images,
    is_image_name,
    read_image,
    read_image_info,
    write_image,
)
from ctmr.translate import OTHER, Translator

logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 255  # of a file name on the usual file systems
CYCLE_EVERY = 8  # images: with quality "fast" every eighth is translated back too
QualityLevel = Literal["fast", "full", "none"]
OnError = Literal["stop", "skip"]


class Job(NamedTuple):
    """One file to be translated."""

    source: Path
    target: Path
    sidecar: Path
    """The JSON beside the target."""


@dataclass(frozen=True)
class BatchSummary:
    """What a translation of files did.

    Attributes:
        written: Images written.
        skipped: Names of the inputs that could not be read.
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
    progress: Callable[[int, int], None] | None = None,
) -> BatchSummary:
    """Translate an image file to a file, or a folder's images to a folder: same names, same sizes.

    Args:
        translator: Of a model.
        source: An image, or a folder of images; never written to.
        output: A file if `source` is one, else a folder.
        to: The modality wanted.
        quality: `fast` translates every eighth image back, `full` all, `none` none.
        on_error: With `stop` one unreadable input stops everything before it began.
        progress: Called with images done and images to do.

    Raises:
        DataError: If inputs cannot be used (all are named), and `on_error` is `stop`.
        OutputError: If an output cannot be written.
    """
    started = time.perf_counter()
    paths, info = _inputs(source)
    jobs = _jobs(translator, paths, source, output, to)
    bad = _unusable(translator, paths, info, to)
    if bad and on_error == "stop":
        raise _refusal(bad, len(paths))
    for error in bad.values():
        logger.warning("skipped: %s", error)
    jobs = [job for job in jobs if job.source not in bad]
    _write_info(translator, jobs, info, to)
    warned = []
    for n, job in enumerate(jobs):
        cycle = quality == "full" or (quality == "fast" and n % CYCLE_EVERY == 0)
        if _translate(translator, job, info, to, cycle).level != "ok":
            warned.append(printable(job.source.name))
        if progress is not None:
            progress(n + 1, len(jobs))
    skipped = tuple(printable(path.name) for path in bad)
    return BatchSummary(len(jobs), skipped, tuple(warned), round(time.perf_counter() - started, 3))


def _translate(
    translator: Translator, job: Job, info: ImageInfo, to: Modality, cycle: bool
) -> Quality:
    """Translate one file and write the sidecar."""
    started = time.perf_counter()
    image = read_image(job.source, info=info)
    result, quality = translator.translate_with_quality(image, to, cycle=cycle)
    write_image(job.target, result)
    seconds = time.perf_counter() - started
    write_json(job.sidecar, translator.sidecar(image, to, quality, seconds))
    return quality


def _inputs(source: Path) -> tuple[list[Path], ImageInfo]:
    if source.is_dir():
        paths, info = find_images(source), read_image_info(source)
        if not paths:
            raise DataError(
                "expected PNG, JPEG or TIFF images in it: found none",
                file=source,
                fix="check the path",
            )
        return paths, info
    if not is_image_name(source):
        raise DataError(
            f"expected a file ending in {', '.join(FORMATS)}, or a folder of such files",
            file=source,
            fix="check the path",
        )
    return [source], read_image_info(source.parent)


def _jobs(
    translator: Translator, paths: Sequence[Path], source: Path, output: Path, to: Modality
) -> list[Job]:
    """What is written where: outputs have names of their own, and none is an input."""
    if source.is_dir() and output.exists() and not output.is_dir():
        raise UsageError(
            "the input is a folder, so OUTPUT must be one: found a file",
            file=output,
            fix="choose another OUTPUT",
        )
    if source.is_dir() or output.is_dir():
        targets = [output / _name(translator, path, to) for path in paths]
    elif _holds(translator, output, to):
        targets = [output]
    else:
        suffixes = [suffix for suffix in FORMATS if _holds(translator, Path("a" + suffix), to)]
        raise UsageError(
            f"expected a folder or a file ending in {', '.join(suffixes)}: found {output.suffix!r}",
            file=output,
            fix="change the suffix",
        )
    stems = Counter(target.stem.lower() for target in targets)
    stems["ctmr"] += 1  # `ctmr.json` has another meaning
    jobs = []
    for path, target in zip(paths, targets, strict=True):
        alone = stems[target.stem.lower()] == 1
        sidecar = target.with_name((target.stem if alone else target.name) + ".json")
        jobs.append(Job(path, target, sidecar))
    _check_names(jobs)
    return jobs


def _check_names(jobs: Sequence[Job]) -> None:
    """Refuse names that cannot be written, or would overwrite an input or each other."""
    inputs = {job.source.resolve() for job in jobs}
    seen: set[str] = set()
    for path in (path for job in jobs for path in (job.target, job.sidecar)):
        if path.resolve() in inputs:
            raise UsageError(
                "the output would overwrite an input", file=path, fix="choose another OUTPUT"
            )
        if path.name.lower() in seen:
            raise DataError(
                "two inputs would be written to one output", file=path, fix="rename one of them"
            )
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise DataError(
                f"expected an output name of at most {MAX_NAME_BYTES} bytes: found"
                f" {len(os.fsencode(path.name))}",
                file=path,
                fix="shorten the name of the input",
            )
        seen.add(path.name.lower())


def _holds(translator: Translator, path: Path, to: Modality) -> bool:
    """Whether a file of that suffix holds translations; a JPEG has 8 bits, which HU do not fit."""
    form = FORMATS.get(path.suffix.lower())
    return form is not None and (form != "JPEG" or translator.writes_8_bit(to))


def _name(translator: Translator, path: Path, to: Modality) -> str:
    """The input's name; a JPEG becomes a PNG where the target needs 16 bits."""
    return path.name if _holds(translator, path, to) else path.stem + ".png"


def _unusable(
    translator: Translator, paths: Sequence[Path], info: ImageInfo, to: Modality
) -> dict[Path, DataError]:
    """Read every input once before any work; what ails those that cannot be translated."""
    bad: dict[Path, DataError] = {}
    for path in paths:
        try:
            translator.to_unit(read_image(path, info=info), OTHER[to])
        except DataError as error:
            bad[path] = error if error.file else DataError(error.what, file=path, fix=error.fix)
    return bad


def _write_info(translator: Translator, jobs: Sequence[Job], info: ImageInfo, to: Modality) -> None:
    """Say HU and spacing of the outputs in a `ctmr.json` beside them, where there is something to say."""
    if jobs:
        spacings = {job.target.name: info.spacing_of(job.source.name) for job in jobs}
        unit: Unit = "HU" if translator.writes_hu(to) else "grey"
        add_image_info(jobs[0].target.parent, unit, spacings)


def _refusal(bad: Mapping[Path, DataError], count: int) -> DataError:
    """One error for all inputs that cannot be used."""
    if len(bad) == 1:
        return next(iter(bad.values()))
    first = next(iter(bad))
    said = "; ".join(f"{printable(path.name)} ({error.what})" for path, error in bad.items())
    return DataError(
        f"{len(bad)} of {count} images cannot be translated: {said}",
        file=first.parent,
        fix="restore or remove these files, or leave them out with --on-error skip",
    )
