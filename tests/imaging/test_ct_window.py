import numpy as np
import pytest

from ctmr.imaging.ct_window import estimated_window

# Shares of tissues in a slice of a head: air, fat, fluid, brain, bone, with the spread of each in HU.
TISSUES = ((0.3, -1000, 5), (0.08, -95, 15), (0.06, 8, 8), (0.46, 34, 9), (0.1, 1000, 400))


def slice_hu() -> np.ndarray:
    rng = np.random.default_rng(1)
    parts = [rng.normal(hu, spread, int(20000 * share)) for share, hu, spread in TISSUES]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize(
    "window", [(0, 80), (-40, 120), (-125, 225), (-160, 240), (-1000, 2000), (-1024, 3071)]
)
def test_window_of_8_bit_images_is_found(window):
    low, high = window
    grey = np.round(((slice_hu() - low) / (high - low)).clip(0, 1) * 255) / 255
    first, last = estimated_window(grey.astype(np.float32))
    brain = first + (34 - low) / (high - low) * (last - first)
    assert brain == pytest.approx(34, abs=8)
    assert 0.5 <= (last - first) / (high - low) <= 2


def test_image_of_one_value_has_some_window():
    low, high = estimated_window(np.zeros(100, np.float32))
    assert low < high
