"""Translate files: every image of a folder, or one, each with a sidecar; nothing is half done."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctmr.errors import DataError, UsageError, printable
from ctmr.files import write_json
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
from ctmr.translate import Modality, Translator

logger = logging.getLogger(__name__)

CYCLE_EVERY = 8  # images: with quality "fast" every eighth is translated back too
QualityLevel = Literal["fast", "full", "none"]
OnError = Literal["stop", "skip"]


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
    targets = _targets(translator, paths, source, output, to)
    good, bad = _check(translator, paths, info, to)
    if bad and on_error == "stop":
        raise _refusal(bad, len(paths))
    for error in bad.values():
        logger.warning("skipped: %s", error)
    _write_info(translator, targets, good, info, to)
    outputs = [targets[path] for path in good]
    warned = []
    for n, path in enumerate(good):
        begun = time.perf_counter()
        image = read_image(path, info=info)
        cycle = quality == "full" or (quality == "fast" and n % CYCLE_EVERY == 0)
        result, found = translator.translate_with_quality(image, to, cycle=cycle)
        write_image(targets[path], result)
        said = translator.sidecar(image, to, found, time.perf_counter() - begun)
        write_json(_sidecar_path(targets[path], outputs), said)
        if found.level != "ok":
            warned.append(printable(path.name))
        if progress is not None:
            progress(n + 1, len(good))
    skipped = tuple(printable(path.name) for path in bad)
    return BatchSummary(len(good), skipped, tuple(warned), round(time.perf_counter() - started, 3))


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


def _targets(
    translator: Translator, paths: Sequence[Path], source: Path, output: Path, to: Modality
) -> dict[Path, Path]:
    """Where each input's translation goes; inputs are never overwritten."""
    if source.is_dir():
        if output.exists() and not output.is_dir():
            raise UsageError(
                "the input is a folder, so OUTPUT must be one: found a file",
                file=output,
                fix="choose another OUTPUT",
            )
        targets = {path: output / _name(translator, path, to) for path in paths}
    elif output.is_dir():
        targets = {source: output / _name(translator, source, to)}
    else:
        targets = {source: output}
    inputs = {path.resolve() for path in paths}
    if len({target.name.lower() for target in targets.values()}) < len(targets):
        raise DataError(
            "two inputs would be written to one output", file=source, fix="rename one of them"
        )
    for path, target in targets.items():
        if target.resolve() in inputs:
            raise UsageError(
                "the output would overwrite an input", file=path, fix="choose another OUTPUT"
            )
    return targets


def _name(translator: Translator, path: Path, to: Modality) -> str:
    """The input's name; a JPEG, which holds 8 bits, becomes a PNG where the target needs 16."""
    if FORMATS[path.suffix.lower()] == "JPEG" and not translator.writes_8_bit(to):
        return path.stem + ".png"
    return path.name


def _check(
    translator: Translator, paths: Sequence[Path], info: ImageInfo, to: Modality
) -> tuple[list[Path], dict[Path, DataError]]:
    """Read every input once before any work: those that can be translated, and what ails the others."""
    good: list[Path] = []
    bad: dict[Path, DataError] = {}
    for path in paths:
        try:
            translator.to_unit(read_image(path, info=info), "ct" if to == "mr" else "mr")
            good.append(path)
        except DataError as error:
            bad[path] = error if error.file else DataError(error.what, file=path, fix=error.fix)
    return good, bad


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


def _write_info(
    translator: Translator,
    targets: Mapping[Path, Path],
    good: Sequence[Path],
    info: ImageInfo,
    to: Modality,
) -> None:
    """Say HU and spacing of the outputs in a `ctmr.json` beside them, where there is something to say."""
    unit: Unit = "HU" if translator.writes_hu(to) else "grey"
    spacings = {targets[path].name: info.spacing_of(path.name) for path in good}
    if good and (unit == "HU" or any(spacings.values())):
        add_image_info(targets[good[0]].parent, unit, spacings)


def _sidecar_path(target: Path, all_targets: Sequence[Path]) -> Path:
    """`a.json` for `a.png`, or `a.png.json` where another output is called `a` too."""
    same = sum(other.stem == target.stem for other in all_targets)
    return target.with_suffix(".json") if same == 1 else target.with_name(target.name + ".json")
