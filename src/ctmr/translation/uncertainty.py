"""What is gathered of a scan, slice by slice, to judge its translation."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ctmr.imaging.resampling import resize
from ctmr.models.quality import Description, Measure, describe, head_in
from ctmr.translation.preprocessing import NetworkInput
from ctmr.types import FloatArray

CYCLE_EVERY = 8  # slices of a volume that are translated back with quality "fast"
MAPPED: tuple[Measure, ...] = ("cycle_error", "disagreement")  # with quality "full"

QualityLevel = Literal["fast", "full", "none"]
Maps = dict[Measure, FloatArray]


class Uncertainty:
    """What is gathered of a scan, slice by slice, to judge its translation.

    Attributes:
        described: Each slice that shows some of the head, as in training of the window about it.
    """

    def __init__(self, made: NetworkInput, level: QualityLevel) -> None:
        self.described: list[Description] = []
        self._made, self._level = made, level
        self._means: dict[Measure, list[float]] = {}
        shape = made.slices.shape[:3]
        mapped = MAPPED if level == "full" else ()
        self._maps: Maps = {measure: np.zeros(shape, np.float32) for measure in mapped}

    def describe(self, places: Sequence[int], unit: FloatArray) -> None:
        """Describe those of the slices (N, h, w, C) at some places K that show the head."""
        for k, image in zip(places, unit, strict=True):
            if k in self._made.kept:
                self.described.append(describe(self._made.window(image)))

    def is_cycled(self, k: int) -> bool:
        """Whether slice K is translated back."""
        if self._level == "fast":
            return k in self._made.kept and k % CYCLE_EVERY == 0
        return self._level == "full"

    def add(self, places: Sequence[int], unit: FloatArray, errors: Maps) -> None:
        """Take in the errors (N, h, w) of slices (N, h, w, C) at some places K.

        An image is judged at the model's scale, in what looks like a head there; a volume on its own grid.
        """
        rows, columns = self._made.slices.shape[1:3]
        for n, k in enumerate(places):
            head = self._made.inside(k)
            inside = head_in(unit[n]) if head is None else head
            for measure, values in errors.items():
                share = np.clip(resize(values[n], rows, columns), 0, 1)
                if self._maps:
                    self._maps[measure][k] = share
                if k in self._made.kept:
                    judged = values[n] if head is None else share
                    self._means.setdefault(measure, []).append(float(judged[inside].mean()))

    def means(self) -> dict[Measure, float]:
        """For each measure, the mean of its means in the head of slices."""
        return {measure: float(np.mean(values)) for measure, values in self._means.items()}

    def maps(self) -> Maps:
        """Each measure on the grid of the scan, as a share of the range; with quality `full` only."""
        return {m: self._made.scan.from_axial(values) for m, values in self._maps.items()}
