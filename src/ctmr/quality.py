"""What can be said of one result without the truth; a first, cheap form."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ctmr.errors import SafetyError
from ctmr.intensity import FloatArray
from ctmr.modality import NAMES
from ctmr.store import Store
from ctmr.volume import MODALITIES, Modality

Level = Literal["ok", "warn", "refuse"]
Cycle = Callable[[FloatArray], FloatArray]
Ranges = dict[str, tuple[float, float]]

# Most training images looked at for the ranges; more change the percentiles little.
MOST = 500
# Training images translated there and back to know the usual cycle error.
CYCLED = 8
# A feature may lie this many widths of the training range (1st to 99th percentile) outside it.
SLACK = 0.25
# An image whose most remarkable feature lies this many widths outside it is foreign.
FOREIGN = 1.0


@dataclass(frozen=True)
class Usual:
    """What the training images of a modality are like.

    Attributes:
        ranges: 1st and 99th percentile of each feature, from `training_ranges`.
        cycle_error: Largest cycle error that is not remarkable, from `typical_cycle_error`.
    """

    ranges: Ranges
    cycle_error: float


@dataclass(frozen=True)
class Quality:
    """A judgement of one translation.

    Attributes:
        level: `ok`, or `warn` if the input is unlike the training images or does not come back.
        why: One sentence for each reason, empty if there is none.
        cycle_error: Mean |back-translated - input| in [-1, 1] units, halved: 0 to 1; None if not computed.
        features: The input's features, see `describe`.
    """

    level: Level
    why: tuple[str, ...]
    cycle_error: float | None
    features: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """As the sidecar has it."""
        return asdict(self)


def describe(image: FloatArray) -> dict[str, float]:
    """Features of an image (H, W) or (H, W, C) in [-1, 1] that tell unlike scans apart.

    Shares of dark, middle and bright pixels, mean and deviation, the brightness of the centre against the
    image's, and the mean absolute difference of neighbours.
    """
    grey = image.mean(axis=-1) if image.ndim == 3 else image  # (H, W)
    height, width = grey.shape
    centre = grey[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    edges = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    return {
        "mean": float(grey.mean()),
        "deviation": float(grey.std()),
        "dark_share": float((grey < -0.9).mean()),
        "bright_share": float((grey > 0.9).mean()),
        "centre_mean": float(centre.mean()),
        "centre_deviation": float(centre.std()),
        "edges": float(edges),
    }


def training_ranges(store: Store) -> dict[Modality, Ranges]:
    """For each modality, the 1st and 99th percentile of each feature over its training images."""
    ranges: dict[Modality, Ranges] = {}
    for modality in MODALITIES:
        count = store.count("train", modality)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(int))
        rows = [describe(store.slice("train", modality, int(i))) for i in chosen]
        ranges[modality] = {}
        for name in rows[0]:
            low, high = np.percentile([row[name] for row in rows], (1, 99))
            ranges[modality][name] = (float(low), float(high))
    return ranges


def typical_cycle_error(store: Store, modality: Modality, cycle: Cycle) -> float:
    """The largest cycle error that is not remarkable: half as much again as the worst of a few training images."""
    count = store.count("train", modality)
    chosen = np.unique(np.linspace(0, count - 1, min(count, CYCLED)).astype(int))
    images = [store.slice("train", modality, int(i)) for i in chosen]
    return 1.5 * max(float(np.abs(cycle(image) - image).mean() / 2) for image in images)


def widths_outside(features: dict[str, float], ranges: Ranges) -> float:
    """How far the most remarkable feature lies outside its training range, in widths of that range; 0 inside."""
    return max(
        (_widths(features[name], low, high) for name, (low, high) in ranges.items()), default=0.0
    )


def _widths(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0) / (high - low + 4e-3)


def judge(image: FloatArray, usual: Usual, cycle_error: float | None) -> Quality:
    """Judge a translation by its input and by how well the input comes back.

    Args:
        image: The input (H, W, C) in [-1, 1] at the model's scale.
        usual: What the training images of its modality are like.
        cycle_error: Mean absolute difference of the input and its way there and back, halved; None if unknown.
    """
    return _judged([describe(image)], usual, cycle_error)


def judge_slices(slices: list[FloatArray], usual: Usual, cycle_errors: list[float]) -> Quality:
    """Judge the translation of a volume by the median slice that shows the head, and by the mean cycle error.

    Args:
        slices: Those slices (H, W, C) in [-1, 1] at the model's scale.
        usual: What the training slices of its modality are like.
        cycle_errors: As for `judge`, of some slices; empty if unknown.
    """
    error = float(np.mean(cycle_errors)) if cycle_errors else None
    return _judged([describe(image) for image in slices], usual, error)


def _judged(described: list[dict[str, float]], usual: Usual, cycle_error: float | None) -> Quality:
    features = {name: float(np.median([row[name] for row in described])) for name in described[0]}
    why = []
    for name, (low, high) in usual.ranges.items():
        if _widths(features[name], low, high) > SLACK:
            why.append(
                f"{name} is {features[name]:.3g}, training images have {low:.3g} to {high:.3g}"
            )
    if cycle_error is not None and cycle_error > usual.cycle_error:
        why.append(f"cycle error is {cycle_error:.3g}, {usual.cycle_error:.3g} is usual at most")
    return Quality("warn" if why else "ok", tuple(why), cycle_error, features)


def require_claimed(
    image: FloatArray, claimed: Modality, ranges: Mapping[Modality, Ranges]
) -> None:
    """Refuse an image that is unlike the training images of its modality and like those of the other.

    Args:
        image: (H, W, C) in [-1, 1] as the networks see it.
        claimed: What it is taken for.
        ranges: For each modality, the usual range of each feature.

    Raises:
        SafetyError: If it looks like the other modality.
    """
    other: Modality = "mr" if claimed == "ct" else "ct"
    features = describe(image)
    outside = {m: widths_outside(features, its) for m, its in ranges.items()}
    if outside[claimed] > FOREIGN and outside[other] <= SLACK:
        raise SafetyError(
            f"expected {NAMES[claimed]}: found an image unlike the {NAMES[claimed]} and like the"
            f" {NAMES[other]} the model was trained on",
            fix="translate it in the other direction, or name another scan",
        )
