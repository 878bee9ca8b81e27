"""Naive answers that a model has to beat: a copy, the mean image, the best monotone map of grey values."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from ctmr.errors import DataError, UsageError
from ctmr.images import Image
from ctmr.intensity import Encoding, FloatArray
from ctmr.pairs import find_pairs, head_of, read_pair
from ctmr.scale import Spacing, resize
from ctmr.volume import Modality, Volume

# Grid of the mean images where pixels have a size: it covers a head and its surroundings.
GRID, GRID_MM = 160, 1.75
BINS = 512  # of source values in the monotone map

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Naive:
    """Naive answers fitted on pairs that the model never saw as pairs.

    Attributes:
        folder: Of the pairs.
        encodings: Of all their sources and truths.
        means: Mean truth by level, on the common grid; under None the mean over all levels.
        knots: Source values and the truth that the monotone map gives them.
    """

    folder: Path
    encodings: tuple[Encoding, Encoding]
    means: dict[int | None, FloatArray]
    knots: tuple[Doubles, Doubles]

    def answers(self, source: Image, truth: Encoding, level: int | None) -> dict[str, FloatArray]:
        """Each naive answer (H, W) for a source image, under its name.

        Raises:
            DataError: If the fit saw other values than the source's and the truth's.
        """
        _require_one_kind(self.folder, {self.encodings, (source.encoding, truth)})
        mean = self.means.get(level, self.means[None])
        return {
            "mean image": _from_grid(mean, source.array.shape[:2], source.spacing_mm),
            "monotone map": np.interp(_grey(source), *self.knots).astype(np.float32),
        }


def fit_naive(folder: Path, to: Modality) -> Naive:
    """Fit the mean image of each level and the best monotone map, in least squares over head pixels.

    The monotone map is isotonic regression, rising or falling, whichever fits better.

    Raises:
        DataError: If the pairs cannot be read, or not all have the same kind of values.
    """
    encodings: set[tuple[Encoding, Encoding]] = set()
    sums: dict[int | None, Doubles] = {}
    counts: dict[int | None, int] = {}
    sources, truths = [], []
    for pair in find_pairs(folder):
        images = read_pair(pair)
        source, truth = images["mr" if to == "ct" else "ct"], images[to]
        if isinstance(source, Volume) or isinstance(truth, Volume):
            raise UsageError(
                "naive answers are fitted on pairs of images: found volumes",
                file=folder,
                fix="leave out --fit",
            )
        encodings.add((source.encoding, truth.encoding))
        mask = head_of(pair, images)
        sources.append(_grey(source)[mask])
        truths.append(_grey(truth)[mask])
        on_grid = _to_grid(_grey(truth), truth.spacing_mm)
        for level in {pair.level, None}:
            sums[level] = sums.get(level, 0.0) + on_grid.astype(np.float64)
            counts[level] = counts.get(level, 0) + 1
    _require_one_kind(folder, encodings)
    means = {level: (sums[level] / counts[level]).astype(np.float32) for level in sums}
    knots = _monotone(np.concatenate(sources), np.concatenate(truths))
    return Naive(folder, encodings.pop(), means, knots)


def _require_one_kind(folder: Path, encodings: set[tuple[Encoding, Encoding]]) -> None:
    if len(encodings) > 1:
        kinds = ", ".join(sorted(f"{source} to {truth}" for source, truth in encodings))
        raise DataError(
            f"expected pairs of one kind to fit naive answers for: found {kinds}",
            file=folder,
            fix="fit on pairs stored like those that are evaluated",
        )


def _monotone(source: FloatArray, truth: FloatArray) -> tuple[Doubles, Doubles]:
    """Knots of the monotone least-squares map from source to truth values."""
    edges = np.unique(np.quantile(source, np.linspace(0, 1, BINS + 1)))
    place = np.clip(np.searchsorted(edges, source, side="right") - 1, 0, None)
    weight = np.bincount(place).astype(np.float64)
    used = weight > 0
    weight = weight[used]
    centre = np.bincount(place, source)[used] / weight
    mean = np.bincount(place, truth)[used] / weight

    def misfit(values: Doubles) -> float:
        return float((weight * (values - mean) ** 2).sum())

    fits: Iterable[Doubles] = (
        isotonic_regression(mean, weights=weight, increasing=rising).x for rising in (True, False)
    )
    return centre, min(fits, key=misfit)


def _grey(image: Image) -> FloatArray:
    return image.array if image.array.ndim == 2 else image.array.mean(axis=-1, dtype=np.float32)


def _to_grid(array: FloatArray, spacing_mm: Spacing | None) -> FloatArray:
    """An image (H, W) on the common grid, centres together; its border value goes on outside."""
    if spacing_mm is None:
        return resize(array, GRID, GRID)
    height, width = (
        max(1, round(side * mm / GRID_MM)) for side, mm in zip(array.shape, spacing_mm, strict=True)
    )
    return _centred(resize(array, height, width), (GRID, GRID))


def _from_grid(mean: FloatArray, shape: tuple[int, int], spacing_mm: Spacing | None) -> FloatArray:
    """The mean image on the grid of an image of that shape and spacing."""
    if spacing_mm is None:
        return resize(mean, *shape)
    height, width = (
        max(1, round(side * mm / GRID_MM)) for side, mm in zip(shape, spacing_mm, strict=True)
    )
    return resize(_centred(mean, (height, width)), *shape)


def _centred(array: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """The array cropped or extended by its edges to a shape, about its centre."""
    for axis, wanted in enumerate(shape):
        extra = wanted - array.shape[axis]
        if extra >= 0:
            around = [(0, 0), (0, 0)]
            around[axis] = (extra // 2, extra - extra // 2)
            array = np.pad(array, around, mode="edge")
        else:
            start = -extra // 2
            array = np.take(array, np.arange(start, start + wanted), axis=axis)
    return array
