"""A slice near a height, as if all had been looked at."""

import numpy as np
import pytest

from ctmr.data.heights import Heights

MOST_MM = 6.0


def looked_for(heights_mm, height_mm, rng):
    """What the first version did: the distance of every slice."""
    distance = np.abs(heights_mm - height_mm)
    near = np.flatnonzero(distance <= max(MOST_MM, float(distance.min())))
    return int(near[rng.integers(near.size)])


@pytest.mark.parametrize("cells", [2**20, 300])
@pytest.mark.parametrize("count", [1, 2, 500, 2048, 2049, 12_000])
def test_drawn_slice_is_that_of_a_search_through_all(count, cells, monkeypatch):
    monkeypatch.setattr("ctmr.data.heights.MAX_CELLS", cells)
    rng = np.random.default_rng(count)
    steps = rng.choice([0.7, 1.0, 1.3, 10 / 3], count)
    places = rng.integers(0, 200, count)
    heights_mm = np.array([round(float(k * mm), 3) for k, mm in zip(places, steps, strict=True)])
    heights = Heights(heights_mm)
    for seed in range(60):
        height_mm = round(float(rng.uniform(-40, 700)), 3)
        if seed % 2:
            height_mm = float(heights_mm[rng.integers(count)])
        expected = looked_for(heights_mm, height_mm, np.random.default_rng(seed))
        assert heights.near(height_mm, MOST_MM, np.random.default_rng(seed)) == expected
