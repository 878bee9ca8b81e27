"""Slices at similar heights, found without looking at all of them."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096  # slices that are looked at one by one


class Heights:
    """The heights of some slices, from which one near another height is drawn.

    Slices are cut into blocks of `BLOCK`. In each the ranks of the heights are sorted, so that two binary searches count
    those in a range; the block that holds the drawn one is then looked at.

    Args:
        heights_mm: Of each slice.
    """

    def __init__(self, heights_mm: NDArray[np.float64]) -> None:
        self._values, ranks = np.unique(heights_mm, return_inverse=True)
        self._ranks = ranks.astype(np.uint32)
        span = len(self._values)
        places = np.arange(len(ranks), dtype=np.int64)
        self._keys = np.sort(places // BLOCK * span + self._ranks)
        self._starts = np.arange(0, len(ranks), BLOCK) // BLOCK * span

    def near(self, height_mm: float, most_mm: float, rng: np.random.Generator) -> int:
        """The number of a slice, drawn from those within `most_mm`, or from the nearest if there is none."""
        low, high = self._range(height_mm, most_mm)
        begins = np.searchsorted(self._keys, self._starts + low)
        ends = np.searchsorted(self._keys, self._starts + high)
        counts = np.cumsum(ends - begins)
        drawn = int(rng.integers(counts[-1]))
        block = int(np.searchsorted(counts, drawn, side="right"))
        before = int(counts[block - 1]) if block else 0
        ranks = self._ranks[block * BLOCK : (block + 1) * BLOCK]
        inside = np.flatnonzero((ranks >= low) & (ranks < high))
        return block * BLOCK + int(inside[drawn - before])

    def _range(self, height_mm: float, most_mm: float) -> tuple[int, int]:
        """First rank within reach, and the one after the last."""
        values = self._values
        place = int(np.searchsorted(values, height_mm))
        around = values[max(0, place - 1) : place + 1]
        reach = max(most_mm, float(np.abs(around - height_mm).min()))
        # Differences are rounded as they grow, so that the ends are looked for among them.
        low = int(np.searchsorted(values, height_mm - reach))
        while low > 0 and abs(values[low - 1] - height_mm) <= reach:
            low -= 1
        while abs(values[low] - height_mm) > reach:
            low += 1
        high = int(np.searchsorted(values, height_mm + reach, side="right"))
        while high < len(values) and abs(values[high] - height_mm) <= reach:
            high += 1
        while abs(values[high - 1] - height_mm) > reach:
            high -= 1
        return low, high
