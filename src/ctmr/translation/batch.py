"""Translate scans: every one of a folder, or one, each with a sidecar; nothing is half done."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ctmr.errors import CtmrError, UsageError, printable, refuse_all
from ctmr.imaging.image import Scan
from ctmr.imaging.label_maps import NotAScan
from ctmr.io.image_info import INFO_NAME
from ctmr.io.listing import SHOWN
from ctmr.io.reading import DEFAULT, Reading
from ctmr.results import Sidecar
from ctmr.system.files import remove_drafts, require_writable
from ctmr.system.ownership import require_no_input, require_own
from ctmr.system.parallel import one_ahead, threads
from ctmr.translation.packed import Packed
from ctmr.translation.plan import (
    PlanItem,
    check_outputs,
    choose_items,
    find_inputs,
    part_of,
    plan_items,
)
from ctmr.translation.single import Wish, fault_of, load, request, translate, translated, write
from ctmr.translation.translator import Translation, Translator
from ctmr.translation.uncertainty import QualityLevel
from ctmr.translation.workers import Translators
from ctmr.translation.writer import Loaded, earlier, require_replaceable, write_info
from ctmr.types import Modality

logger = logging.getLogger(__name__)

IMAGE_CYCLE_EVERY = 8  # with quality "fast" every eighth image is translated back too
IMAGES_WRITTEN = 2  # at a time
WITHOUT_WARNING = ("ok", "unknown")  # said once: that nothing is known of a model
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class BatchSummary:
    """What a translation of scans did.

    Attributes:
        written: Scans written.
        kept: Scans that an earlier call had written, with `resume`.
        skipped: Names of the inputs that could not be used, below the input folder.
        warned: Names whose quality is `warn` or `refuse`.
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
    reading: Reading = DEFAULT,
    like: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    only: str | None = None,
    part: tuple[int, int] = (1, 1),
    workers: Translators | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BatchSummary:
    """Translate one scan, or the scans of a folder and its sub-folders: same names, same sizes, same grids.

    Args:
        translator: Of a model.
        source: An image, a volume file, a folder with one DICOM series, or a tree of any of these; never written to.
        output: Of the same form, with the same sub-folders.
        to: The modality wanted.
        quality: `fast` translates every eighth image, or every eighth slice of a volume, back; `full` all, and writes maps
            of uncertainty; `none` none, nor a preview.
        on_error: With `stop` one unusable input stops everything before it began.
        reading: What to believe of scans that say too little.
        like: A DICOM series whose headers and grid a volume file belongs to: it is written as DICOM.
        resume: Leave what an earlier call wrote of the same scan, model and options.
        overwrite: Replace files that ctmr did not write too; never an input, and never a `ctmr.json`.
        only: Translate the scans whose path below `source` matches this pattern, in which `*` stands for `/` too.
        part: Which of how many shares of these, from 1; a function of their sorted names alone.
        workers: Processes that do the work; None does it in this one.
        progress: Called with scans done and scans to do.

    Raises:
        CtmrError: If inputs cannot be used (all are named), and `on_error` is `stop`; or an output cannot be written.
        OutputError: If a file would be replaced that ctmr did not write; this is found before any work.
    """
    started = time.perf_counter()
    inputs = find_inputs(source, output, to, reading)
    items = choose_items(plan_items(translator, inputs, source, output, to, like=like), only)
    paths = [scan.path for scan in inputs]
    check_outputs(items, quality)
    require_writable(output, 0)
    if like is not None and not any(item.like for item in items):
        raise UsageError("--like is for volume files: found none", file=source, fix="leave it out")
    wish = Wish(to, quality, reading, overwrite)
    levels = {item: _level(n, item, quality) for n, item in enumerate(items)}
    items = part_of(items, part)
    warned = set[PlanItem]()
    if resume:
        for folder in {item.target.parent for item in items}:
            remove_drafts(folder)
    done = _done_before(translator, items, wish, warned) if resume else []
    todo = set(items).difference(done)
    items = [item for item in items if item in todo]
    _require_free(items, paths, quality, overwrite)
    write_info(translator, [*done, *items], to, only_check=True)
    # A single volume is read once only; nothing is written before that.
    alone = len(items) == 1 and items[0].kind != "image" and on_error == "stop"
    many = workers if workers is not None and len(items) > 1 else None
    bad = {} if alone else _unusable(translator, items, wish, many)
    bad = _without_maps(bad, items)
    if on_error == "stop":
        refuse_all(
            [(item.name, error) for item, error in bad.items()],
            f"of {len(items)} scans cannot be translated",
            file=source,
            fix="restore or remove these files, or leave them out with --on-error skip",
        )
    for error in bad.values():
        logger.warning("skipped: %s", error)
    items = [item for item in items if item not in bad]
    write_info(translator, [*done, *items], to)

    for n, sidecar in enumerate(_translations(translator, items, levels, wish, many)):
        if sidecar.quality.level not in WITHOUT_WARNING:
            warned.add(items[n])
        if progress is not None:
            progress(n + 1, len(items))
    skipped, warnings = (
        tuple(printable(item.name) for item in chosen)
        for chosen in (bad, [item for item in levels if item in warned])
    )
    seconds = round(time.perf_counter() - started, 3)
    return BatchSummary(len(items), len(done), skipped, warnings, seconds)


def _require_free(
    items: Sequence[PlanItem],
    inputs: Sequence[Path],
    quality: QualityLevel,
    overwrite: bool,
) -> None:
    """Refuse to replace inputs, or what ctmr did not write."""
    paths = [path for item in items for path in item.paths(quality)]
    read = {*inputs, *(path.parent / INFO_NAME for path in inputs)}
    require_no_input(paths, read | {item.like for item in items if item.like is not None})
    for item in items:
        if item.series is not None:
            require_replaceable(item)
    sidecars = {path: sidecar for item in items for path, sidecar in item.sidecars(quality).items()}
    require_own(paths, overwrite=overwrite, sidecars=sidecars)


def _level(n: int, item: PlanItem, quality: QualityLevel) -> QualityLevel:
    """How much of the n-th scan is translated back."""
    turns = quality == "fast" and item.kind == "image"
    return "none" if turns and n % IMAGE_CYCLE_EVERY > 0 else quality


def _translations(
    translator: Translator,
    items: Sequence[PlanItem],
    levels: Mapping[PlanItem, QualityLevel],
    wish: Wish,
    workers: Translators | None,
) -> Iterator[Sidecar]:
    """Translate and write all, in order, the next scan being read while one is translated, or by several processes."""
    if workers is not None:
        yield from workers.each(translated, [(item, levels[item], wish) for item in items])
        return

    def read(item: PlanItem) -> Loaded:
        return load(translator, item, wish)

    def translations() -> Iterator[tuple[Loaded, Translation[Scan | Packed]]]:
        for loaded in one_ahead(read, items):
            level = levels[loaded.item]
            yield loaded, translate(translator, loaded, level, wish.reading)

    def put(done: tuple[Loaded, Translation[Scan | Packed]]) -> Sidecar:
        return write(translator, done, wish)

    # Images are small: while the disk has one, others are encoded.
    ahead = IMAGES_WRITTEN if all(item.kind == "image" for item in items) else 1
    yield from one_ahead(put, translations(), ahead=ahead)


def _done_before(
    translator: Translator, items: Sequence[PlanItem], wish: Wish, warned: set[PlanItem]
) -> list[PlanItem]:
    """Those of which the same translation is there; those with a warning join `warned`."""
    done = []
    for item in items:
        with suppress(CtmrError):  # what cannot be read is named with all others
            sidecar = earlier(item, request(translator, item, wish))
            if sidecar is not None:
                done.append(item)
                if sidecar.quality.level not in WITHOUT_WARNING:
                    warned.add(item)
    return done


def _unusable(
    translator: Translator, items: Sequence[PlanItem], wish: Wish, workers: Translators | None
) -> dict[PlanItem, CtmrError]:
    """Read every input once before any work; what ails those that cannot be translated."""
    faults: Iterable[CtmrError | None]
    if workers is not None:
        faults = workers.each(fault_of, [(item, wish) for item in items])
    else:
        faults = one_ahead(partial(fault_of, translator, wish=wish), items, ahead=threads())
    return {item: fault for item, fault in zip(items, faults, strict=True) if fault is not None}


def _without_maps(
    bad: Mapping[PlanItem, CtmrError], items: list[PlanItem]
) -> dict[PlanItem, CtmrError]:
    """The errors but those of masks and label maps, which are left out of `items` unless there is nothing else."""
    maps = [item for item, error in bad.items() if isinstance(error, NotAScan)]
    if not maps or len(maps) == len(items):
        return dict(bad)
    names = ", ".join(item.name for item in maps[:SHOWN]) + (", ..." if maps[SHOWN:] else "")
    logger.warning(
        "left out %d masks, label maps or maps of probabilities: %s", len(maps), printable(names)
    )
    items[:] = [item for item in items if item not in maps]
    return {item: error for item, error in bad.items() if item not in maps}
