"""What can be said of one result without the truth: three measures of uncertainty, and a level."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ctmr.errors import SafetyError
from ctmr.imaging.head import head_mask
from ctmr.types import NAMES, BoolArray, FloatArray, Modality

Level = Literal["ok", "warn", "refuse", "unknown"]
Measure = Literal["cycle_error", "disagreement", "input_distance"]
Description = dict[str, float]
Ranges = dict[str, tuple[float, float]]

MEASURES: tuple[Measure, ...] = ("cycle_error", "disagreement", "input_distance")
# A feature may lie this many widths of the training range (1st to 99th percentile) outside it.
MAX_WIDTHS_OUTSIDE = 0.25
# An image whose most remarkable feature lies this many widths outside it is foreign.
MIN_WIDTHS_OF_OTHER = 1.0
# An input at this many times the distance of the 99th percentile of the training images warns. Of 120 held-out images
# of the demo's heads 1 did at most; of 30 blurred by 1.5 pixels half (CT) or all (MR), where the ranges saw 3 % and 47 %.
WARN_DISTANCE = 1.25
# Beyond this distance it is refused. Held-out real slices lay at 1.2 at most, at 3.2 with ten training images, those of
# another data set at 7.3; noise, a page of text and an inverted head at 20 to 105.
REFUSE_DISTANCE = 10.0
# Deviation that each feature has at least, so that one which is the same in all training images does not decide alone.
MIN_DEVIATION = 4e-3
UNKNOWN = "nothing is known of the training images, so that the input cannot be judged"


@dataclass(frozen=True)
class Distribution:
    """Where the features of training images lie: their mean, and the inverse of their covariance.

    Attributes:
        mean: In the order of `describe`.
        inverse: Scaled so that the 99th percentile of the training images lies at distance 1.
    """

    mean: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]

    def distance(self, features: Description) -> float:
        """The Mahalanobis distance of an image's features, 1 for one at the edge of the training images."""
        away = np.array(list(features.values())) - self.mean
        return float(np.sqrt(max(away @ np.array(self.inverse) @ away, 0.0)))


@dataclass(frozen=True)
class Usual:
    """What the training images of a modality are like.

    Attributes:
        ranges: 1st and 99th percentile of each feature, from `training_ranges`.
        cycle_error: Largest cycle error that is not remarkable, from `training_statistics`.
        distribution: Of the features, from `training_distribution`.
    """

    ranges: Ranges
    cycle_error: float
    distribution: Distribution


@dataclass(frozen=True)
class Quality:
    """A judgement of one translation.

    Attributes:
        level: `ok`; `warn` if the input is unlike the training images or does not come back; `refuse` if it is so unlike
            them that no head of this kind is in it; `unknown` if nothing is known of the training images.
        why: One sentence for each reason, empty if there is none.
        cycle_error: Mean |back-translated - input| in the head as a share of the range, 0 to 1; None if not computed.
        disagreement: The same of the translation and that of the mirrored input, mirrored back; None if not computed.
        input_distance: From the training images, see `Distribution`; of a volume, its median slice's; None if unknown.
        features: The input's features, see `describe`.
    """

    level: Level
    why: tuple[str, ...]
    cycle_error: float | None
    disagreement: float | None
    input_distance: float | None
    features: Description

    def as_json(self) -> dict[str, Any]:
        """As the sidecar has it."""
        return asdict(self)

    def measures(self) -> dict[Measure, float]:
        """The measures of uncertainty that were computed: the greater, the less the result can be believed."""
        found: dict[Measure, float | None] = {
            "cycle_error": self.cycle_error,
            "disagreement": self.disagreement,
            "input_distance": self.input_distance,
        }
        return {name: value for name, value in found.items() if value is not None}


def describe(image: FloatArray) -> Description:
    """Description of an image (H, W) or (H, W, C) in [-1, 1] that tell unlike scans apart.

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


def head_in(image: FloatArray) -> BoolArray:
    """The head (H, W) in an image (H, W, C) in [-1, 1], or all of it where none is found."""
    mask = head_mask(image.mean(axis=-1), hu=False)
    return mask if mask.any() else ~mask


def difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """|first - second| of images (..., C) in [-1, 1] as a share of that range, averaged over channels: (...), 0 to 1."""
    share: FloatArray = np.abs(first - second).mean(axis=-1) / 2
    return share


def training_ranges(features: Sequence[Description]) -> Ranges:
    """The 1st and 99th percentile of each feature."""
    ranges: Ranges = {}
    for name in features[0]:
        low, high = np.percentile([row[name] for row in features], (1, 99))
        ranges[name] = (float(low), float(high))
    return ranges


def training_distribution(features: Sequence[Description]) -> Distribution:
    """Mean and scaled inverse covariance of the features.

    Of N images and 7 features, what the covariance has beside its diagonal is multiplied by N / (N + 7), so that it
    can be inverted for few images too.
    """
    rows = np.array([list(row.values()) for row in features])  # (N, 7)
    count, dimensions = rows.shape
    away = rows - rows.mean(axis=0)
    covariance = away.T @ away / count
    shrunk = covariance * count / (count + dimensions)
    np.fill_diagonal(shrunk, np.diag(covariance) + MIN_DEVIATION**2)
    inverse = np.linalg.inv(shrunk)
    squared = np.einsum("ni,ij,nj->n", away, inverse, away)
    inverse /= max(float(np.percentile(squared, 99)), 1.0)
    return Distribution(
        tuple(map(float, rows.mean(axis=0))), tuple(tuple(map(float, row)) for row in inverse)
    )


def widths_outside(features: Description, ranges: Ranges) -> float:
    """How far the most remarkable feature lies outside its training range, in widths of that range; 0 inside."""
    return max(
        (_widths(features[name], low, high) for name, (low, high) in ranges.items()), default=0.0
    )


def _widths(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0) / (high - low + 4e-3)


def judge(
    described: Sequence[Description], usual: Usual | None, means: Mapping[Measure, float]
) -> Quality:
    """Judge a translation by its input and by how well the input comes back.

    Args:
        described: Description of the image at the model's scale; or of the slices of a volume that show the head, of which
            the median counts.
        usual: What the training images of its modality are like; None if nothing is known of them.
        means: `cycle_error` and `disagreement` of `Quality`, where they are known.
    """
    features = {name: float(np.median([row[name] for row in described])) for name in described[0]}
    cycle_error, disagreement = means.get("cycle_error"), means.get("disagreement")
    if usual is None:
        return Quality("unknown", (UNKNOWN,), cycle_error, disagreement, None, features)
    distance = float(np.median([usual.distribution.distance(row) for row in described]))
    why = [
        f"{name} is {features[name]:.3g}, training images have {low:.3g} to {high:.3g}"
        for name, (low, high) in usual.ranges.items()
        if _widths(features[name], low, high) > MAX_WIDTHS_OUTSIDE
    ]
    if distance > WARN_DISTANCE:
        why.append(
            f"distance from the training images is {distance:.3g}, {WARN_DISTANCE:g} is usual at most"
        )
    if cycle_error is not None and cycle_error > usual.cycle_error:
        why.append(f"cycle error is {cycle_error:.3g}, {usual.cycle_error:.3g} is usual at most")
    return Quality(
        level="refuse" if distance > REFUSE_DISTANCE else "warn" if why else "ok",
        why=tuple(why),
        cycle_error=cycle_error,
        disagreement=disagreement,
        input_distance=distance,
        features=features,
    )


def require_like(quality: Quality) -> None:
    """Refuse a scan that is judged to be of something else.

    Raises:
        SafetyError: With its distance.
    """
    if quality.level == "refuse" and quality.input_distance is not None:
        raise SafetyError(
            f"scan is unlike the training data: distance {quality.input_distance:.3g},"
            f" limit {REFUSE_DISTANCE:g}",
            fix="name another scan or model, or give --anyway",
        )


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
    outside = {m: widths_outside(features, training) for m, training in ranges.items()}
    if outside[claimed] > MIN_WIDTHS_OF_OTHER and outside[other] <= MAX_WIDTHS_OUTSIDE:
        raise SafetyError(
            f"expected {NAMES[claimed]}: found an image unlike the {NAMES[claimed]} and like the"
            f" {NAMES[other]} the model was trained on",
            fix="translate it in the other direction, or name another scan",
        )
