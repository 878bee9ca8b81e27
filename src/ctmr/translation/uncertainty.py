"""What is gathered of a volume, slice by slice, to judge its translation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ctmr.imaging.resampling import resize
from ctmr.imaging.slices import HeadSlices
from ctmr.imaging.volume import axial_slices
from ctmr.models.quality import Description, Measure, describe
from ctmr.types import FloatArray

CYCLE_EVERY = 8  # slices of a volume that are translated back with quality "fast"
MAPPED: tuple[Measure, ...] = ("cycle_error", "disagreement")  # with quality "full"

QualityLevel = Literal["fast", "full", "none"]
Maps = dict[Measure, FloatArray]


class Doubts:
    """What is gathered of a volume, slice by slice, to judge its translation.

    Attributes:
        features: Of each slice that shows some of the head, as in training of the window about it.
        maps: For each measure (K, rows, columns) as shares of the range; empty if they are not wanted.
    """

    def __init__(self, found: HeadSlices, mapped: bool) -> None:
        self.features: list[Description] = []
        self._found, self._means = found, dict[Measure, list[float]]()
        inside = found.head.mask(found.volume.array.shape).astype(np.float32)
        self._inside = axial_slices(inside) > 0
        shape = self._inside.shape
        self.maps: Maps = {m: np.zeros(shape, np.float32) for m in MAPPED} if mapped else {}

    def describe(self, places: Sequence[int], unit: FloatArray) -> None:
        """Describe those of the slices (N, h, w, C) at some places K that show the head."""
        for k, image in zip(places, unit, strict=True):
            if k in self._found.kept:
                self.features.append(describe(self._found.windowed(image, -1.0)))

    def add(self, places: Sequence[int], errors: Maps) -> None:
        """Take in the errors (N, h, w) of slices at some places K."""
        for measure, its in errors.items():
            for k, error in zip(places, its, strict=True):
                share = share_on(error, self._inside.shape[1:])
                if self.maps:
                    self.maps[measure][k] = share
                if k in self._found.kept:
                    mean = float(share[self._inside[k]].mean())
                    self._means.setdefault(measure, []).append(mean)

    def means(self) -> dict[Measure, float]:
        """For each measure, the mean of its means in the head of slices."""
        return {measure: float(np.mean(its)) for measure, its in self._means.items()}


def is_cycled(k: int, found: HeadSlices, level: QualityLevel) -> bool:
    """Whether slice K of a volume is translated back."""
    return level == "full" or (level == "fast" and k in found.kept and k % CYCLE_EVERY == 0)


def share_on(error: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """An error map (h, w) on a grid of (rows, columns), still from 0 to 1."""
    return np.clip(resize(error, shape[0], shape[1]), 0, 1)
