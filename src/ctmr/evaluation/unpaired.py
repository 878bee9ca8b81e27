"""A model on scans that do not pair: what can be said of its translations without the truth."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ctmr.data.folders import require_sources
from ctmr.data.sources import Source
from ctmr.data.survey import refuse
from ctmr.errors import CtmrError, SafetyError, printable
from ctmr.evaluation.results import Pile, Seen, features_of, observe
from ctmr.evaluation.statistics import MODEL, Row
from ctmr.imaging.head import head_of_scan
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.label_maps import NotAScan, require_scan
from ctmr.imaging.modality import as_modality
from ctmr.io.reading import DEFAULT, Reading
from ctmr.io.scan import read_with_series
from ctmr.translation.translator import Translator
from ctmr.types import DIRECTION_TO, MODALITIES, OTHER, BoolArray, Direction

logger = logging.getLogger(__name__)


def look_at_scans(
    translator: Translator,
    data: Path,
    directions: Sequence[Direction],
    *,
    reading: Reading = DEFAULT,
    progress: Callable[[int, int], None] | None = None,
) -> Seen:
    """Translate the test scans of a data folder, or where it has none of a modality, its training scans.

    Scans that are not safe to translate, as they look like the other modality or have no certain left and right, are left
    out with a warning.

    Args:
        translator: Of the model in question.
        data: Data folder (`ctmr help data-folders`).
        directions: What is looked at.
        reading: What to believe of scans that say too little.
        progress: Called with scans done and scans to do.

    Raises:
        CtmrError: Naming all scans that cannot be read or translated, before any work.
    """
    sources = require_sources(data, translator.model.card.data.patient_pattern, reading)
    held_out = [source for source in sources if source.split == "test"]
    if {source.modality for source in held_out} != set(MODALITIES):
        logger.warning("no test scans of both modalities: the training scans are evaluated")
        held_out = [source for source in sources if source.split == "train"]
    usable: list[Source] = []
    foreign: list[str] = []
    reasons: list[SafetyError | NotAScan] = []
    failures: list[tuple[Source, CtmrError]] = []
    for source in held_out:
        try:
            scan, to = _scan(source), OTHER[source.modality]
            if DIRECTION_TO[to] in directions:
                translator.check(scan, to, anyway=reading.anyway)
            usable.append(source)
        except (SafetyError, NotAScan) as error:
            foreign.append(source.label)
            reasons.append(error)
        except CtmrError as error:
            failures.append((source, error.at(source.path)))
    refuse(failures, len(held_out))
    if foreign:
        shown = printable(", ".join(foreign[:5])) + (", ..." if foreign[5:] else "")
        if not usable:
            raise SafetyError(
                f"none of {len(foreign)} scans can be translated: {reasons[0].what}",
                file=data,
                fix=reasons[0].fix,
            )
        logger.warning("left out %d scans: %s (%s)", len(foreign), shown, reasons[0].what)
    seen = Seen()
    for n, source in enumerate(usable):
        try:
            _look_at(seen, translator, source, directions)
        except CtmrError as error:
            raise error.at(source.path) from error
        if progress is not None:
            progress(n + 1, len(usable))
    return seen


def _look_at(
    seen: Seen, translator: Translator, source: Source, directions: Sequence[Direction]
) -> None:
    """Translate one scan; it is a real image of the other direction too."""
    scan = _scan(source)
    patient = source.patient or source.label
    mask = _head(scan, source)
    to = OTHER[source.modality]
    d, back = DIRECTION_TO[to], DIRECTION_TO[source.modality]
    if d in directions:
        result, figures, mirrored = observe(
            translator, scan, to, mask, anyway=source.reading.anyway
        )
        seen.rows.append(Row(source.label, patient, d, MODEL, figures))
        rows = features_of(translator, result, to, mask)
        seen.translated.setdefault(d, Pile()).add(rows, patient)
        seen.mirrored[d] = seen.mirrored.get(d, 0) + mirrored
    if back in directions:
        rows = features_of(translator, scan, source.modality, mask)
        seen.real.setdefault(back, Pile()).add(rows, patient)


def _scan(source: Source) -> Scan:
    """The scan of a source, a volume as the modality of its folder."""
    modality, reading = source.modality, source.reading
    scan, _ = read_with_series(
        source.path, modality=modality, reading=reading, info=source.info, files=source.files
    )
    if not reading.anyway:
        require_scan(scan)
    if isinstance(scan, Image):
        return scan
    return as_modality(scan, modality, anyway=reading.anyway)


def _head(scan: Scan, source: Source) -> BoolArray:
    """The head mask of a scan, or all of it where no head is found."""
    mask = head_of_scan(scan, source.modality)
    return mask if mask.any() else np.ones_like(mask)
