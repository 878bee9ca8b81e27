"""From figures of single images to a table: each averaged within a patient, then over patients, with 95 % intervals."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.results import Correlation, Summary, Table
from ctmr.system.rng import stream
from ctmr.types import Direction

MODEL = "model"


@dataclass(frozen=True, eq=False)
class Row:
    """Figures of one image; `method` is `model`, or the name of a baseline or another translator."""

    name: str
    patient: str
    direction: Direction
    method: str
    figures: Mapping[str, float]


def table(rows: Sequence[Row], names: Iterable[str]) -> Table:
    """Figure -> mean, standard deviation and interval over patients, of those names that any row has."""
    found = {name: list(by_patient(rows, name).values()) for name in names}
    return {name: summarise(values) for name, values in found.items() if values}


def by_patient(rows: Sequence[Row], figure: str) -> dict[str, float]:
    """The mean of a figure over each patient's images; patients without it are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if figure in row.figures:
            values.setdefault(row.patient, []).append(row.figures[figure])
    return {patient: float(np.mean(numbers)) for patient, numbers in values.items()}


def of_method(rows: Sequence[Row], method: str) -> list[Row]:
    """The rows of one method."""
    return [row for row in rows if row.method == method]


def difference(rows: Sequence[Row], method: str, figure: str) -> Summary:
    """A figure of a method less the model's, patient by patient: of an error, above zero the model is better."""
    model = by_patient(of_method(rows, MODEL), figure)
    other = by_patient(of_method(rows, method), figure)
    shared = [patient for patient in model if patient in other]
    return summarise([other[patient] - model[patient] for patient in shared])


def correlations(
    rows: Sequence[Row], names: Sequence[str], error: str
) -> dict[str, Correlation | None]:
    """How well each figure ranks the images by their error; None where nothing can be ranked."""
    found = {}
    for name in names:
        ranked = [row for row in rows if name in row.figures and error in row.figures]
        found[name] = rank_correlation(
            [row.figures[name] for row in ranked],
            [row.figures[error] for row in ranked],
            patients=[row.patient for row in ranked],
        )
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


RESAMPLES = 2000
NORMAL_95 = 1.959963984540054  # 97.5 % quantile of the normal distribution
MIN_RANKED_PATIENTS = 3  # patients of whom a rank correlation is taken

Doubles = NDArray[np.float64]


def summarise(values_per_patient: Sequence[float], seed: int = 0) -> Summary:
    """Mean, standard deviation and 95 % interval over patients, one value each.

    Raises:
        ValueError: If there is no value, or one is not finite.
    """
    values = np.asarray(values_per_patient, dtype=np.float64)  # (patients,)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"expected finite values, one for each patient: got {values_per_patient!r}"
        )
    mean = float(values.mean())
    if values.size == 1:
        return Summary(mean, 0.0, (mean, mean))
    low, high = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Summary(mean, float(values.std(ddof=1)), (float(low), float(high)))


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, in [0, 1] (Wilson 1927; without continuity correction).

    Raises:
        ValueError: If not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"expected 0 <= successes <= n and n > 0: got {successes} of {n}")
    # Ours: SciPy's binomtest gives the same to 2e-16, and takes 300 times as long.
    share, z2 = successes / n, NORMAL_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
    # At the ends the formula gives 0 or 1 up to rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def rank_correlation(
    a: Sequence[float], b: Sequence[float], *, patients: Sequence[str] | None = None, seed: int = 0
) -> Correlation | None:
    """Spearman's rank correlation of two figures of the same images, with its 95 % interval.

    Patients are drawn with all their images; draws in which a figure has one value only say nothing and are left out.

    Args:
        a: A figure of each image, (n,).
        b: Another, (n,).
        patients: Whose the images are, (n,); None if each is of another patient.
        seed: Of the draws.

    Returns:
        None where there is nothing to rank: fewer than 3 patients, or all values of `a` or of `b` are equal.

    Raises:
        ValueError: If the lengths differ, or a value is not finite.
    """
    values = np.asarray([a, b] if len(a) == len(b) else [], dtype=np.float64)  # (2, n)
    owners = np.arange(len(a)) if patients is None else np.unique(patients, return_inverse=True)[1]
    if values.ndim != 2 or not np.isfinite(values).all() or len(owners) != len(a):
        raise ValueError(f"expected finite values, one of each for each image: got {a!r} and {b!r}")
    count = int(owners.max(initial=-1)) + 1
    if count < MIN_RANKED_PATIENTS or not np.ptp(values, axis=1).all():
        return None
    # Not by SciPy's bootstrap, which draws single images and keeps draws without a correlation.
    drawn = stream(seed, "rank correlation").multinomial(count, [1 / count] * count, RESAMPLES)
    draws = _spearman(values, drawn[:, owners].astype(np.float64))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    found = _spearman(values, np.ones((1, len(a))))[0]
    return Correlation(float(found), (float(low), float(high)), len(a))


def _spearman(values: Doubles, times: Doubles) -> Doubles:
    """Spearman's correlation of two rows (2, n) whose entries are there `times` (draws, n); nan if a row is constant."""
    ranks = []  # of both, less their means, (draws, n)
    for row in values:
        _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        each = np.add.reduceat(times[:, place.argsort()], counts.cumsum() - counts, axis=1)
        rank = (each.cumsum(axis=1) - each / 2)[:, place]  # the mean of equal values' places
        ranks.append(
            rank - (times * rank).sum(axis=1, keepdims=True) / times.sum(axis=1, keepdims=True)
        )
    x, y = ranks
    covariance, xx, yy = ((times * product).sum(axis=1) for product in (x * y, x * x, y * y))
    size = np.sqrt(xx * yy)
    there = size > 0
    found = np.full(len(times), np.nan)
    found[there] = np.clip(covariance[there] / size[there], -1, 1)
    return found
