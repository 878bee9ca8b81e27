"""One scan on its way: read, checked, translated and written, in this process or in one of several."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctmr.errors import CtmrError, DataError, SafetyError
from ctmr.imaging.image import Scan
from ctmr.imaging.label_maps import require_scan
from ctmr.imaging.volume import Volume, onto_grid
from ctmr.io.reading import Reading
from ctmr.io.scan import info_within, read_with_series
from ctmr.models.quality import Quality, require_like
from ctmr.results import Sidecar
from ctmr.translation.packed import Packed, gather_for
from ctmr.translation.plan import PlanItem, request_of
from ctmr.translation.translator import Translation, Translator
from ctmr.translation.uncertainty import QualityLevel
from ctmr.translation.writer import Loaded, write_translation
from ctmr.types import OTHER, Modality

if TYPE_CHECKING:  # pydicom takes a third of a second to import: only for what is DICOM
    from ctmr.io.dicom.series import Series


@dataclass(frozen=True)
class Wish:
    """What is wanted of every scan; see `ctmr.translation.batch.translate_files`."""

    to: Modality
    quality: QualityLevel
    reading: Reading
    overwrite: bool


def request(translator: Translator, item: PlanItem, wish: Wish) -> str:
    """A hash of all that a translation follows from; see `request_of`."""
    info = info_within(item.source.parent, item.root) if item.kind == "image" else None
    return request_of(translator, item, wish.to, wish.quality, wish.reading, info)


def load(translator: Translator, item: PlanItem, wish: Wish) -> Loaded:
    """Read a scan that is to be translated, and prepare it."""
    started = time.perf_counter()
    try:
        request_hash = request(translator, item, wish)
        scan, series = _read(translator, item, wish.to, wish.reading)
        made = translator.prepared(scan, wish.to, anyway=wish.reading.anyway)
        seconds = time.perf_counter() - started
        return Loaded(item, request_hash, scan, made, series, seconds, wish.quality)
    except CtmrError as error:
        raise error.at(item.source) from error


def fault_of(translator: Translator, item: PlanItem, wish: Wish) -> CtmrError | None:
    """What ails a scan that cannot be translated, which is read for that."""
    try:
        scan = _read(translator, item, wish.to, wish.reading)[0]
        quality = translator.check(scan, wish.to, anyway=wish.reading.anyway)
        if not wish.reading.anyway:
            _require_head(scan, quality)
    except CtmrError as error:
        return error.at(item.source)
    return None


def translated(translator: Translator, item: PlanItem, level: QualityLevel, wish: Wish) -> Sidecar:
    """Read, translate and write one scan."""
    loaded = load(translator, item, wish)
    done = translate(translator, loaded, level, wish.reading)
    return write(translator, (loaded, done), wish)


def write(
    translator: Translator, done: tuple[Loaded, Translation[Scan | Packed]], wish: Wish
) -> Sidecar:
    """Write a translation and what lies beside it."""
    return write_translation(translator, *done, wish.to, wish.reading, overwrite=wish.overwrite)


def translate(
    translator: Translator, loaded: Loaded, quality: QualityLevel, reading: Reading
) -> Translation[Scan | Packed]:
    """Translate one scan."""
    started, made = time.perf_counter(), loaded.made
    try:
        is_file = loaded.series is None
        gather = gather_for(loaded.item.target, made) if is_file else made.whole
        done = translator.translation_of(made, quality, gather)
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
        item.source,
        modality=modality,
        reading=reading,
        info=info,
        files=item.scan.series,
        as_stored=True,
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


def _require_head(scan: Scan, quality: Quality) -> None:
    """Refuse what shows nothing, or nothing that the model knows."""
    if scan.array.min() == scan.array.max():
        raise DataError(
            f"expected an image of a head: found one grey value ({scan.array.min():g}) everywhere",
            fix="remove it, or give --anyway",
        )
    require_like(quality)
