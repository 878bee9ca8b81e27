"""A model against pairs of images whose truth is known: table, JSON and figure."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ctmr import metrics
from ctmr.cyclegan import DIRECTIONS, Direction
from ctmr.errors import CtmrError, DataError
from ctmr.files import write_json, write_text
from ctmr.images import Image
from ctmr.intensity import MR_UNITS, BoolArray, FloatArray
from ctmr.model import NOTICE
from ctmr.naive import fit_naive
from ctmr.pairs import Pair, find_pairs, head_of, read_pair
from ctmr.scan import Scan
from ctmr.translate import DIRECTION_TO, OTHER, Translator, load_model
from ctmr.volume import Modality, Volume, axial_slices, canonical

if TYPE_CHECKING:
    from ctmr.figures import Case

# PSNR and SSIM of HU: clipped to this range, as SynthRAD2023 does (Huijben et al. 2024).
HU_RANGE = (-1024.0, 3000.0)
# Tissue by the truth's HU: below is air, above is bone.
AIR_BELOW, BONE_ABOVE = -200.0, 250.0
FIGURES = ("mae", "psnr", "ssim", "mae_air", "mae_soft", "mae_bone")
SHOWN = 3  # pairs in comparison.png
GOLDEN = 0.618034  # spreads them over patients and over the slices of a patient
SHOWN_HU = (-1000.0, 1500.0)
PROTOCOL = (
    "in the head mask, each figure averaged over a patient's images, then over patients; MAE not clipped;"
    " PSNR and SSIM (uniform window of 7 pixels along each axis that has as many, else of 1) clipped to -1024..3000 HU, or to the range of the image's depth;"
    " an MR volume is brought to 0..1000 by the 0.5 and 99.5 percentiles of its head;"
    " air below -200 HU and bone above 250 HU of the truth; 95 % intervals by bootstrap over patients"
)
TO: dict[Direction, Modality] = {direction: to for to, direction in DIRECTION_TO.items()}


@dataclass(frozen=True, eq=False)
class Row:
    """Figures of one image; `method` is `model` or the name of a naive answer."""

    name: str
    patient: str
    direction: Direction
    method: str
    figures: Mapping[str, float]


@dataclass(eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        rows: A row for each image, direction and method.
        summary: The object of `metrics.json` (docs/data.md).
    """

    rows: list[Row] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def evaluate(
    model: Path | str | Translator,
    pairs: Path | str,
    *,
    out: Path | str | None = None,
    direction: Direction | Literal["both"] = "both",
    fit: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Translate the scans of PAIRS and compare each with the truth of the same name.

    Args:
        model: A run or model folder, or its translator.
        pairs: Folder with `ct/`, `mr/` and, if there are masks, `mask/`.
        out: Where `metrics.json`, `metrics.csv` and `comparison.png` go; None writes nothing.
        direction: What is evaluated.
        fit: Other PAIRS, of training subjects, on which naive answers are fitted to stand in the same table.
        progress: Called with images done and images to do.

    Returns:
        Errors in the head mask, in HU where the truth is in HU, else in grey levels; mean, standard deviation
        and 95 % interval over patients.

    Raises:
        DataError: If the pairs cannot be read, two of a pair differ in size, or the truth has other values than the
            model's translations.
    """
    translator = model if isinstance(model, Translator) else load_model(model)
    found = find_pairs(Path(pairs), translator.model.card.data.patient_pattern)
    directions = DIRECTIONS if direction == "both" else (direction,)
    naive = {} if fit is None else {d: fit_naive(Path(fit), TO[d]) for d in directions}
    result, cases, units = Evaluation(), [], {}
    shown = {int(len(found) * ((i + 1) * GOLDEN % 1)) for i in range(SHOWN)}
    for n, pair in enumerate(found):
        images = read_pair(pair)
        mask = head_of(pair, images)
        for d in directions:
            source, truth = images[OTHER[TO[d]]], images[TO[d]]
            translated = _translate(translator, pair, images, TO[d])
            answers = {"model": translated.array}
            if naive and isinstance(source, Image):
                answers |= naive[d].answers(source, truth.encoding, pair.level)
            actual, unit, span = _truth(truth, mask)
            for method, answer in answers.items():
                if isinstance(truth, Image):
                    answer, actual = _grey(answer), _grey(actual)
                figures = _figures(answer, actual, mask, unit, span)
                result.rows.append(Row(pair.name, pair.patient, d, method, figures))
            units[d] = unit
            if out is not None and n in shown:
                cases.append(_case(f"{pair.name} {d}", source, translated, truth, mask))
        if progress is not None:
            progress(n + 1, len(found))
    result.summary = _summary(result.rows, directions, found, units)
    if out is not None:
        _write(Path(out), result, cases)
    return result


def _truth(truth: Scan, mask: BoolArray) -> tuple[FloatArray, str, tuple[float, float]]:
    """The truth's values as the model writes them, their unit, and the range of PSNR and SSIM."""
    if truth.encoding == "HU":
        return truth.array, "HU", HU_RANGE
    if isinstance(truth, Volume):
        intensity = MR_UNITS.fitted(truth.array[mask])
        return (
            MR_UNITS.from_unit(intensity.to_unit(truth.array)),
            "MR",
            (MR_UNITS.low, MR_UNITS.high),
        )
    return truth.array, "grey", (0.0, float(2**truth.depth - 1))


def _case(label: str, source: Scan, result: Scan, truth: Scan, mask: BoolArray) -> "Case":
    """A row of `comparison.png`; HU are shown from air to bone."""
    from ctmr.figures import Case

    def window(unit: str, span: tuple[float, float]) -> tuple[float, float]:
        return SHOWN_HU if unit == "HU" else span

    seen, seen_unit, seen_span = _truth(source, mask)
    actual, unit, span = _truth(truth, mask)
    return Case(
        label=label,
        source=_plane(seen, source),
        result=_plane(result.array, result),
        truth=_plane(actual, truth),
        unit=unit,
        source_window=window(seen_unit, seen_span),
        window=window(unit, span),
    )


def _plane(array: FloatArray, scan: Scan) -> FloatArray:
    """What the figure shows of a scan's array: the image, or a volume's middle axial slice."""
    if isinstance(scan, Image):
        return _grey(array)
    slices = axial_slices(canonical(replace(scan, array=array)).array)
    middle: FloatArray = slices[len(slices) // 2]
    return middle


def _translate(
    translator: Translator, pair: Pair, images: Mapping[Modality, Scan], to: Modality
) -> Scan:
    """The translation of a pair's scan into the values of its truth."""
    files = {"ct": pair.ct, "mr": pair.mr}
    try:
        translated = translator.translation(images[OTHER[to]], to, quality="none").scan
    except CtmrError as error:
        raise error.at(files[OTHER[to]]) from error
    if translated.encoding != images[to].encoding:
        raise DataError(
            f"expected {translated.encoding} values, as the model's translations have: found"
            f" {images[to].encoding}",
            file=files[to],
            fix="give the truth as the training images are, with their ctmr.json",
        )
    return translated


def _figures(
    answer: FloatArray,
    truth: FloatArray,
    mask: BoolArray,
    unit: str,
    span: tuple[float, float],
) -> dict[str, float]:
    """The figures of one answer: MAE unclipped; PSNR and SSIM clipped to the range `span`."""
    low, high = span
    clipped, clipped_truth = np.clip(answer, low, high), np.clip(truth, low, high)
    figures = {
        "mae": metrics.mae(answer, truth, mask),
        "psnr": metrics.psnr(clipped, clipped_truth, mask, high - low),
        "ssim": metrics.ssim(clipped, clipped_truth, mask, high - low),
    }
    if unit == "HU":
        air, bone = mask & (truth < AIR_BELOW), mask & (truth > BONE_ABOVE)
        tissues = {"air": air, "soft": mask & ~air & ~bone, "bone": bone}
        for name, where in tissues.items():
            if where.any():
                figures[f"mae_{name}"] = metrics.mae(answer, truth, where)
    return figures


def _grey(array: FloatArray) -> FloatArray:
    """(H, W, 3) -> (H, W); grey images stay."""
    if array.ndim == 3:
        array = array.mean(axis=-1, dtype=np.float32)
    return array


def _summary(
    rows: Sequence[Row],
    directions: Sequence[Direction],
    pairs: Sequence[Pair],
    units: Mapping[Direction, str],
) -> dict[str, Any]:
    """The object of `metrics.json`: each figure averaged within a patient, then over patients."""
    said: dict[str, Any] = {}
    for direction in directions:
        ours = [row for row in rows if row.direction == direction]
        methods = list(dict.fromkeys(row.method for row in ours))
        tables = {
            method: _table([row for row in ours if row.method == method]) for method in methods
        }
        said[direction] = {
            "unit": units[direction],
            **tables.pop("model"),
            "naive": tables,
            "difference": {method: _difference(ours, method) for method in tables},
        }
    return {
        "n": len(pairs),
        "patients": len({pair.patient for pair in pairs}),
        "unit": " | ".join(dict.fromkeys(units.values())),
        "protocol": PROTOCOL,
        "notice": NOTICE,
        "directions": said,
    }


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    """Figure -> mean, standard deviation and interval over patients."""
    names = [name for name in FIGURES if any(name in row.figures for row in rows)]
    return {
        name: asdict(metrics.summarise(list(_by_patient(rows, name).values()))) for name in names
    }


def _by_patient(rows: Sequence[Row], figure: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        if figure in row.figures:
            values.setdefault(row.patient, []).append(row.figures[figure])
    return {patient: float(np.mean(its)) for patient, its in values.items()}


def _difference(rows: Sequence[Row], method: str) -> dict[str, Any]:
    """MAE of a naive answer less the model's, patient by patient: above zero the model is better."""
    model = _by_patient([row for row in rows if row.method == "model"], "mae")
    naive = _by_patient([row for row in rows if row.method == method], "mae")
    return asdict(metrics.summarise([naive[patient] - model[patient] for patient in model]))


def _write(out: Path, result: Evaluation, cases: "Sequence[Case]") -> None:
    from ctmr import figures

    write_json(out / "metrics.json", result.summary)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("name", "patient", "direction", "method", *FIGURES))
    for row in result.rows:
        values = [f"{row.figures[name]:.6g}" if name in row.figures else "" for name in FIGURES]
        writer.writerow((row.name, row.patient, row.direction, row.method, *values))
    write_text(out / "metrics.csv", table.getvalue())
    figures.save(figures.comparison(cases), out / "comparison.png")
