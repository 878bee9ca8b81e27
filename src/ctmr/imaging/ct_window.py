"""The window in HU that the grey values of CT images were cut to, where nobody says it."""

import numpy as np
import numpy.typing as npt

LOWEST_HU = (-1024, -1000, -500, -200, -160, -125, -100, -60, -40, -30, -20, -10, -5, 0, 5, 10)
HIGHEST_HU = (60, 70, 75, 80, 90, 100, 120, 150, 200, 225, 240, 300, 500, 1000, 1500, 2000, 3071)
"""Ends of the windows that pictures of heads are saved with."""
BINS = 64


def estimated_window(
    shown: npt.NDArray[np.float32], usual_hu: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """The window by which usual heads come to look most like the values shown: (low, high) in HU.

    Fluid, brain and what is cut off at either end tell: histograms of what is above the lowest value are compared.

    Args:
        shown: Values of CT images in [0, 1], of any shape.
        usual_hu: HU of CT images of heads, of any shape.
    """
    found = _cumulated(shown)

    def distance(low: float, high: float) -> float:
        seen = ((usual_hu - np.float32(low)) / np.float32(high - low)).clip(0, 1)
        return float(np.abs(_cumulated(seen) - found).mean())

    windows = [(float(low), float(high)) for low in LOWEST_HU for high in HIGHEST_HU]
    return min(windows, key=lambda window: distance(*window))


def _cumulated(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Share of the values above the lowest bin that lie below each of `BINS` bounds."""
    counts = np.histogram(values, BINS, (0, 1))[0][1:].astype(np.float64)
    cumulated: npt.NDArray[np.float64] = np.cumsum(counts) / max(counts.sum(), 1)
    return cumulated
