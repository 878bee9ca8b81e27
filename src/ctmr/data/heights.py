"""Slices at similar heights, found without looking at all of them."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 2048  # slices that are looked at one by one
MAX_CELLS = 2**20  # of the table: 4 MB


class Heights:
    """The heights of some slices, from which one near another height is drawn.

    Slices are cut into blocks. A table says how many of each block lie below each height, so that two of its rows tell how
    many are within a range; the block that holds the drawn one is then looked at.

    Args:
        heights_mm: Of each slice.
    """

    def __init__(self, heights_mm: NDArray[np.float64]) -> None:
        self._values, ranks = np.unique(heights_mm, return_inverse=True)
        heights, slices = len(self._values), len(ranks)
        blocks = max(1, min(-(-slices // BLOCK), MAX_CELLS // heights))
        self._ranks, self._block = ranks.astype(np.uint32), -(-slices // blocks)
        cells = ranks * blocks + np.arange(slices) // self._block
        counts = np.bincount(cells, minlength=heights * blocks).reshape(heights, blocks)
        self._below = np.zeros((heights + 1, blocks), np.uint32)
        np.cumsum(counts, axis=0, out=self._below[1:])

    def near(self, height_mm: float, most_mm: float, rng: np.random.Generator) -> int:
        """The number of a slice, drawn from those within `most_mm`, or from the nearest if there is none."""
        low, high = self._range(height_mm, most_mm)
        counts = np.cumsum(self._below[high] - self._below[low])
        drawn = int(rng.integers(int(counts[-1])))
        block = int(np.searchsorted(counts, drawn, side="right"))
        before = int(counts[block - 1]) if block else 0
        ranks = self._ranks[block * self._block : (block + 1) * self._block]
        inside = np.flatnonzero((ranks >= low) & (ranks < high))
        return block * self._block + int(inside[drawn - before])

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
