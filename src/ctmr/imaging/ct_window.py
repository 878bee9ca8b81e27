"""The window in HU that the grey values of CT images were cut to, where nobody says it."""

from typing import Any

import numpy as np
import numpy.typing as npt

LOWEST_HU = (-1024, -1000, -500, -200, -160, -125, -100, -60, -40, -30, -20, -10, -5, 0, 5, 10)
HIGHEST_HU = (60, 70, 75, 80, 90, 100, 120, 150, 200, 225, 240, 300, 500, 1000, 1500, 2000, 3071)
"""Ends of the windows that pictures of heads are saved with."""
BINS = 64
# Quantiles 0, 1/80 to 1 of the HU in 48 slices of heads rendered from 20 label maps (seed 0 of `synthetic.pairs`).
USUAL_HU = (
    *(-1024, -982, -484, -209, -114, -103, -96, -90, -83, -74, -61, -45, -28, -15, -8, -3, 1, 4, 6),
    *(8, 10, 11, 13, 14, 16, 17, 18, 19, 20, 21, 23, 23, 24, 25, 26, 27, 28, 29, 29, 30, 31, 32),
    *(33, 33, 34, 35, 36, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 49, 50, 52, 53, 55, 57),
    *(59, 62, 66, 73, 93, 157, 294, 449, 623, 782, 928, 1082, 1248, 1435, 1675, 3071),
)


def estimated_window(shown: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The window by which usual heads come to look most like the values shown: (low, high) in HU.

    Fluid, brain and what is cut off at either end tell: histograms of what is above the lowest value are compared.

    Args:
        shown: Values of CT images in [0, 1], of any shape.
    """
    found = _cumulated(shown)
    places = np.linspace(0, 1, 4000)
    usual_hu = np.interp(places, np.linspace(0, 1, len(USUAL_HU)), USUAL_HU)

    def distance(low: float, high: float) -> float:
        seen = ((usual_hu - low) / (high - low)).clip(0, 1)
        return float(np.abs(_cumulated(seen) - found).mean())

    windows = [(float(low), float(high)) for low in LOWEST_HU for high in HIGHEST_HU]
    return min(windows, key=lambda window: distance(*window))


def _cumulated(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Share of the values above the lowest bin that lie below each of `BINS` bounds."""
    counts = np.histogram(values, BINS, (0, 1))[0][1:].astype(np.float64)
    cumulated: npt.NDArray[np.float64] = np.cumsum(counts) / max(counts.sum(), 1)
    return cumulated
