"""Translate scans: every one of a folder, or one, each with a sidecar; nothing is half done."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ctmr.errors import CtmrError, DataError, SafetyError, UsageError, printable, refuse_all
from ctmr.imaging.image import Scan
from ctmr.imaging.label_maps import NotAScan, require_scan
from ctmr.imaging.volume import Volume, onto_grid
from ctmr.io.image_info import INFO_NAME
from ctmr.io.listing import SHOWN
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import info_within, read_with_series
from ctmr.models.quality import Quality, require_like
from ctmr.results import Sidecar
from ctmr.system.files import remove_drafts, require_writable
from ctmr.system.ownership import require_no_input, require_own
from ctmr.system.parallel import one_ahead, threads
from ctmr.translation.plan import (
    PlanItem,
    check_outputs,
    choose_items,
    find_inputs,
    plan_items,
    request_of,
)
from ctmr.translation.translator import Translation, Translator
from ctmr.translation.uncertainty import QualityLevel
from ctmr.translation.writer import (
    Loaded,
    earlier,
    require_replaceable,
    write_info,
    write_translation,
)
from ctmr.types import OTHER, Modality

if TYPE_CHECKING:  # pydicom takes a third of a second to import: only for what is DICOM
    from ctmr.io.dicom.series import Series

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
    info_of = functools.cache(info_within)
    levels = {item: _level(n, item, quality) for n, item in enumerate(items)}

    def request(item: PlanItem) -> str:
        info = info_of(item.source.parent, item.root) if item.kind == "image" else None
        return request_of(translator, item, to, quality, reading, info)

    warned = set[PlanItem]()
    if resume:
        for folder in {item.target.parent for item in items}:
            remove_drafts(folder)
    done = _done_before(items, request, warned) if resume else []
    todo = set(items).difference(done)
    items = [item for item in items if item in todo]
    _require_free(items, paths, quality, overwrite)
    write_info(translator, [*done, *items], to, only_check=True)
    # A single volume is read once only; nothing is written before that.
    alone = len(items) == 1 and items[0].kind != "image" and on_error == "stop"
    bad = {} if alone else _unusable(translator, items, to, reading)
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

    def read(item: PlanItem) -> Loaded:
        started = time.perf_counter()
        try:
            request_hash = request(item)
            scan, series = _read(translator, item, to, reading)
            made = translator.prepared(scan, to, anyway=reading.anyway)
            seconds = time.perf_counter() - started
            return Loaded(item, request_hash, scan, made, series, seconds, quality)
        except CtmrError as error:
            raise error.at(item.source) from error

    def translations() -> Iterator[tuple[Loaded, Translation]]:
        for loaded in one_ahead(read, items):
            yield loaded, _translate(translator, loaded, levels[loaded.item], reading)

    def write(done: tuple[Loaded, Translation]) -> Sidecar:
        return write_translation(translator, *done, to, reading, overwrite=overwrite)

    # Images are small: while the disk has one, others are encoded.
    ahead = IMAGES_WRITTEN if all(item.kind == "image" for item in items) else 1
    for n, sidecar in enumerate(one_ahead(write, translations(), ahead=ahead)):
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


def _done_before(
    items: Sequence[PlanItem], request: Callable[[PlanItem], str], warned: set[PlanItem]
) -> list[PlanItem]:
    """Those of which the same translation is there; those with a warning join `warned`."""
    done = []
    for item in items:
        with suppress(CtmrError):  # what cannot be read is named with all others
            sidecar = earlier(item, request(item))
            if sidecar is not None:
                done.append(item)
                if sidecar.quality.level not in WITHOUT_WARNING:
                    warned.add(item)
    return done


def _translate(
    translator: Translator, loaded: Loaded, quality: QualityLevel, reading: Reading
) -> Translation:
    """Translate one scan."""
    started = time.perf_counter()
    try:
        done = translator.translation_of(loaded.made, quality)
        if not reading.anyway:
            _require_head(loaded.scan, done.quality)
    except CtmrError as error:
        raise error.at(loaded.item.source) from error
    loaded.seconds += time.perf_counter() - started
    return done


def _read(
    translator: Translator, item: PlanItem, to: Modality, reading: Reading
) -> "tuple[Scan, Series | None]":
    """The scan, and the DICOM series it comes from or belongs to if it is to be written as one."""
    if item.series is not None and to == "ct" and not translator.preprocessor.writes_hu(to):
        raise SafetyError(
            "expected a model that gives HU, as a CT series has them: found one trained on grey values",
            fix="convert the series to NIfTI and translate that",
        )
    modality = OTHER[to]
    info = info_within(item.source.parent, item.root) if item.kind == "image" else None
    scan, series = read_with_series(
        item.source, modality=modality, reading=reading, info=info, files=item.scan.series
    )
    if not reading.anyway:
        require_scan(scan)
    if item.like is None or not isinstance(scan, Volume):
        return scan, series
    from ctmr.io.dicom.series import read_series

    series = read_series(item.like, irregular=reading.irregular)
    if series.volume.modality == to:
        raise SafetyError(
            f"expected with --like the series the volume file was made of: found one that shows"
            f" {to.upper()} already",
            file=item.like,
            fix="name that series",
        )
    onto_grid(scan, series.volume)  # before any work
    return scan, series


def _unusable(
    translator: Translator, items: Sequence[PlanItem], to: Modality, reading: Reading
) -> dict[PlanItem, CtmrError]:
    """Read every input once before any work; what ails those that cannot be translated."""

    def ailment(item: PlanItem) -> CtmrError | None:
        try:
            scan = _read(translator, item, to, reading)[0]
            quality = translator.check(scan, to, anyway=reading.anyway)
            if not reading.anyway:
                _require_head(scan, quality)
        except CtmrError as error:
            return error.at(item.source)
        return None

    found = zip(items, one_ahead(ailment, items, ahead=threads()), strict=True)
    return {item: error for item, error in found if error is not None}


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


def _require_head(scan: Scan, quality: Quality) -> None:
    """Refuse what shows nothing, or nothing that the model knows."""
    if scan.array.min() == scan.array.max():
        raise DataError(
            f"expected an image of a head: found one grey value ({scan.array.min():g}) everywhere",
            fix="remove it, or give --anyway",
        )
    require_like(quality)
