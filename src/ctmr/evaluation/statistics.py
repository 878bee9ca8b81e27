"""From figures of single images to a table: each averaged within a patient, then over patients."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ctmr.cyclegan import Direction
from ctmr.statistics import rank_correlation, summarise

MODEL = "model"


@dataclass(frozen=True, eq=False)
class Row:
    """Figures of one image; `method` is `model`, or the name of another answer to the same question."""

    name: str
    patient: str
    direction: Direction
    method: str
    figures: Mapping[str, float]


def table(rows: Sequence[Row], names: Iterable[str]) -> dict[str, Any]:
    """Figure -> mean, standard deviation and interval over patients, of those names that any row has."""
    found = {name: list(by_patient(rows, name).values()) for name in names}
    return {name: asdict(summarise(values)) for name, values in found.items() if values}


def by_patient(rows: Sequence[Row], figure: str) -> dict[str, float]:
    """The mean of a figure over each patient's images; patients without it are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if figure in row.figures:
            values.setdefault(row.patient, []).append(row.figures[figure])
    return {patient: float(np.mean(its)) for patient, its in values.items()}


def of_method(rows: Sequence[Row], method: str) -> list[Row]:
    """The rows of one method."""
    return [row for row in rows if row.method == method]


def difference(rows: Sequence[Row], method: str, figure: str) -> dict[str, Any]:
    """A figure of a method less the model's, patient by patient: of an error, above zero the model is better."""
    model = by_patient(of_method(rows, MODEL), figure)
    other = by_patient(of_method(rows, method), figure)
    both = [patient for patient in model if patient in other]
    return asdict(summarise([other[patient] - model[patient] for patient in both]))


def correlations(rows: Sequence[Row], names: Sequence[str], error: str) -> dict[str, Any]:
    """How well each figure ranks the images by their error: Spearman's correlation, its interval, n; null if unknown."""
    found: dict[str, Any] = {}
    for name in names:
        its = [row for row in rows if name in row.figures and error in row.figures]
        known = rank_correlation(
            [row.figures[name] for row in its],
            [row.figures[error] for row in its],
            patients=[row.patient for row in its],
        )
        found[name] = asdict(known) if known is not None else None
    return found


def csv_text(rows: Sequence[Row]) -> str:
    """A line for each row; a figure that an image does not have is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "patient", "direction", "method", *names))
    for row in rows:
        values = [f"{row.figures[name]:.6g}" if name in row.figures else "" for name in names]
        writer.writerow((row.name, row.patient, row.direction, row.method, *values))
    return text.getvalue()
