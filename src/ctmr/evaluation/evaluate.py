"""A model against scans it has not seen: errors where the truth is known, and what can be said without it."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ctmr.data.folders import holds_data, is_tree, require_sources
from ctmr.data.pairs import Pair, find_pairs, pairs_in_tree, without_maps
from ctmr.errors import DataError, SafetyError, UsageError, printable
from ctmr.evaluation import statistics as tables
from ctmr.evaluation.baselines import BASELINES, fit_baselines
from ctmr.evaluation.lesion_test import lesion_table
from ctmr.evaluation.paired import find_others, look_at_pairs, require_usable
from ctmr.evaluation.protocol import FIGURES, UNITS, described
from ctmr.evaluation.results import NO_REFERENCE, Seen
from ctmr.evaluation.statistics import MODEL, Row
from ctmr.evaluation.unpaired import look_at_scans
from ctmr.io.image_info import MAX_INFO_BYTES
from ctmr.io.reading import DEFAULT, Reading
from ctmr.models.quality import MEASURES
from ctmr.notice import NOTICE
from ctmr.results import DirectionMetrics, Evaluated, Lesions, Metrics
from ctmr.synthetic.data_folder import Subjects
from ctmr.system.files import json_bytes, read_regular, require_writable
from ctmr.system.ownership import is_own, require_own, write_own
from ctmr.translation.translator import Translator, load_model
from ctmr.types import DIRECTIONS, TO, Direction

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

HEADS = 60  # synthetic ones with lesions, and as many without
OUTPUTS = ("metrics.json", "metrics.csv", "comparison.png")
MAX_CASES = 3  # pairs in comparison.png
GOLDEN = 0.618034  # spreads them over patients and over the slices of a patient
PROTOCOL = (
    "each figure as `figures` says, averaged over a patient's scans, then over patients; HU as SynthRAD2023 and 2025;"
    " MR volumes brought to 0..1000 by the 0.5 and 99.5 percentiles of their head;"
    " baselines from the truth of the other patients; 95 % intervals by bootstrap over patients"
)


@dataclass(eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        rows: A row for each scan, direction and method.
        metrics: What they come to.
    """

    rows: list[Row]
    metrics: Metrics

    @property
    def summary(self) -> dict[str, Any]:
        """The object of `metrics.json` (`ctmr help measure-with-pairs`)."""
        return self.metrics.as_json()


def evaluate(
    model: Path | str | Translator,
    scans: Path | str,
    *,
    out: Path | str | None = None,
    direction: Direction | Literal["both"] = "both",
    answers: Mapping[str, Path] | None = None,
    reading: Reading = DEFAULT,
    overwrite: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> Evaluation:
    """Translate scans that the model has not seen and measure the results, with the truth if it is known.

    Args:
        model: A run or model folder, or its translator.
        scans: PAIRS, a folder with `ct/`, `mr/` and, if there are masks, `mask/`, where one name is one slice or volume;
            or a data folder, whose test scans are looked at without the truth.
        out: Where `metrics.json`, `metrics.csv` and `comparison.png` go; None writes nothing.
        direction: What is evaluated.
        answers: Translations of PAIRS by other means, which stand in the same table: name -> folder with `ct/` and `mr/`.
        reading: What to believe of scans that say too little.
        overwrite: Replace files of these names in `out` too that ctmr did not write.
        progress: Called with a label, gives what is called with scans done and scans to do.

    Returns:
        Figures of the model and of other translators: mean, standard deviation and 95 % interval over patients. If a
        `subjects.json` of `ctmr synth` stands in `scans` or above it, also what becomes of lesions.

    Raises:
        CtmrError: If scans cannot be read or translated, two of a pair differ in size, or a truth has other values than
            the model's translations; all are named before any work.
        OutputError: If a file would be replaced that ctmr did not write; this is found before any work.
        UsageError: If `answers` are given without a truth, or under a name that the table has.
        SafetyError: If most results look mirrored; what was found is written before.
    """
    translator = model if isinstance(model, Translator) else load_model(model)
    place = Path(scans)
    directions = DIRECTIONS if direction == "both" else (direction,)
    start = progress or (lambda _: lambda done, total: None)
    if out is not None:
        require_writable(Path(out), 0)
        outputs = [Path(out) / name for name in OUTPUTS]
        require_own(outputs, overwrite=overwrite, inputs=[place, *(answers or {}).values()])
    pattern = translator.model.card.data.patient_pattern
    pairs = _pairs(place, pattern, reading)
    if not pairs:
        if answers:
            raise UsageError(
                "other translations are compared with a truth: found a data folder, which has none",
                file=place,
                fix="give a folder of pairs, or leave out --answers",
            )
        seen = look_at_scans(
            translator, place, directions, reading=reading, progress=start("translating")
        )
    else:
        to = [TO[d] for d in directions]
        others = find_others(answers or {}, to, pairs)
        require_usable(translator, pairs, directions, others)
        shown = {int(len(pairs) * ((i + 1) * GOLDEN % 1)) for i in range(MAX_CASES)}
        seen = look_at_pairs(
            translator,
            pairs,
            directions,
            baselines=fit_baselines(pairs, to),
            others=others,
            shown=shown if out is not None else (),
            progress=start("comparing"),
        )
    result = Evaluation(seen.rows, summary_of(seen))
    result.metrics.model = Evaluated(**translator.about)
    sequence = synthetic_sequence(place)
    if sequence is not None:
        result.metrics.lesions = _lesions(translator, sequence, start("lesions"))
    if out is not None:
        _write(Path(out), result, seen, overwrite)
    _require_upright(seen, place)
    return result


def _pairs(place: Path, patient_pattern: str | None, reading: Reading) -> list[Pair]:
    """The pairs of a folder; none of a data folder, but of a tree those in one frame of reference."""
    if not holds_data(place):
        return without_maps(find_pairs(place, patient_pattern, reading))
    if not is_tree(place):
        return []
    try:
        sources = require_sources(place, patient_pattern, reading)
    except DataError as error:
        fix = f"{error.fix}, or give a folder of pairs, with ct/ and mr/"
        raise DataError(error.what, file=place, fix=fix) from error
    pairs = pairs_in_tree(sources)
    if pairs:
        logger.info("%d pairs of test patients in one frame of reference", len(pairs))
    else:
        logger.warning(
            "%s: no CT and MR of a test patient in one frame of reference, so there is no truth",
            printable(str(place)),
        )
    return pairs


def summary_of(seen: Seen) -> Metrics:
    """Each figure averaged within a patient, then over patients."""
    directions: dict[Direction, DirectionMetrics] = {}
    figures = {}
    for direction in dict.fromkeys(row.direction for row in seen.rows):
        rows = [row for row in seen.rows if row.direction == direction]
        model_rows = tables.of_method(rows, MODEL)
        others = [m for m in dict.fromkeys(row.method for row in rows) if m != MODEL]
        compared = {m: tables.table(tables.of_method(rows, m), FIGURES) for m in others}
        found = DirectionMetrics(
            figures=tables.table(model_rows, FIGURES),
            others={m: table for m, table in compared.items() if m not in BASELINES},
            baselines={m: table for m, table in compared.items() if m in BASELINES},
            difference={m: tables.difference(rows, m, "mae") for m in others},
            no_reference=tables.table(model_rows, NO_REFERENCE),
            distances=seen.distances(direction),
            uncertainty=tables.correlations(model_rows, MEASURES, "mae"),
        )
        figures[direction] = NO_REFERENCE
        values = seen.values.get(direction)
        if values is not None:
            found.unit = UNITS[values]
            figures[direction] = described(values, in_mm=seen.in_mm) | NO_REFERENCE
        directions[direction] = found
    units = dict.fromkeys(
        metrics.unit for metrics in directions.values() if metrics.unit is not None
    )
    return Metrics(
        n=len({row.name for row in seen.rows}),
        patients=len({row.patient for row in seen.rows}),
        unit=" | ".join(units),
        protocol=PROTOCOL,
        notice=NOTICE,
        figures=figures,
        directions=directions,
    )


def _lesions(
    translator: Translator, sequence: Literal["t1", "t2"], progress: Progress
) -> Lesions | None:
    """What becomes of lesions of synthetic heads; None for a model of other values than theirs."""
    try:
        return lesion_table(translator, sequence=sequence, heads=HEADS, progress=progress)
    except DataError as error:
        logger.warning("what becomes of lesions is not measured: %s", error.what)
        return None


def synthetic_sequence(place: Path) -> Literal["t1", "t2"] | None:
    """The MR weighting of synthetic heads that scans are of, by the `subjects.json` in their folder or above it."""
    for folder in (place, place.absolute().parent):
        with suppress(OSError, ValidationError):
            content = read_regular(folder / "subjects.json", MAX_INFO_BYTES)
            return TypeAdapter(Subjects).validate_json(content).sequence
    return None


def _require_upright(seen: Seen, place: Path) -> None:
    for direction, mirrored in seen.mirrored.items():
        count = sum(row.direction == direction and row.method == MODEL for row in seen.rows)
        if 2 * mirrored > count:
            raise SafetyError(
                f"expected results with the source's left and right: found {mirrored} of {count} of"
                f" {direction} that look mirrored",
                file=place,
                fix="do not use this model; its training images lie both ways round (ctmr help images)",
            )


def _write(out: Path, result: Evaluation, seen: Seen, overwrite: bool) -> None:
    from ctmr.reporting import figures

    metrics, rows, comparison = (out / name for name in OUTPUTS)
    write_own(metrics, json_bytes(result.summary), overwrite=overwrite)
    write_own(rows, tables.csv_text(result.rows).encode(), overwrite=overwrite)
    if seen.cases:
        figures.save(figures.comparison(seen.cases), comparison, overwrite=overwrite)
    elif is_own(comparison):  # one of other scans does not belong to these figures
        comparison.unlink(missing_ok=True)
