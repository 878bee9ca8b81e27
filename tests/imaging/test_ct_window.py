import numpy as np
import pytest

from ctmr.imaging.ct_window import HIGHEST_HU, LOWEST_HU, estimated_window

# Shares of tissues in a slice of a head: air, fat, fluid, brain, bone, with the spread of each in HU.
TISSUES = ((0.3, -1000, 5), (0.08, -95, 15), (0.06, 8, 8), (0.46, 34, 9), (0.1, 1000, 400))


def slice_hu(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(hu, spread, int(20000 * share)) for share, hu, spread in TISSUES]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize(
    "window", [(0, 80), (-40, 120), (-125, 225), (-160, 240), (-1000, 2000), (-1024, 3071)]
)
def test_window_of_8_bit_images_is_found(window):
    low, high = window
    grey = np.round(((slice_hu(1) - low) / (high - low)).clip(0, 1) * 255) / 255
    found = estimated_window(grey.astype(np.float32), slice_hu(0))
    steps = [
        abs(ends.index(end) - ends.index(true))
        for ends, end, true in zip((LOWEST_HU, HIGHEST_HU), found, window, strict=True)
    ]
    assert max(steps) <= 1


def test_image_of_one_value_has_some_window():
    low, high = estimated_window(np.zeros(100, np.float32), slice_hu(0))
    assert low < high
