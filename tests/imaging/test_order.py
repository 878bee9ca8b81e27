"""Percentiles and medians beside those of NumPy, to the last bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ctmr.imaging.order import median, ordered, percentile, percentiles
from ctmr.system.rng import stream


@given(st.integers(0, 2**32), st.integers(1, 3000), st.booleans(), st.floats(0, 100))
def test_percentiles_and_median_equal_those_of_numpy(
    seed: int, count: int, whole: bool, percent: float
) -> None:
    values = stream("order", seed).normal(0, 100, count).astype(np.float32)
    values = np.rint(values) if whole else values
    row = ordered(values)
    assert percentile(row, percent) == float(np.percentile(values, percent))
    several = (0.5, 25.0, percent, 99.5)
    np.testing.assert_array_equal(percentiles(row, several), np.percentile(values, several))
    assert median(row) == float(np.median(values))


def test_percentiles_of_four_values_worked_by_hand() -> None:
    row = ordered(np.array([[8, 1], [2, 4]], np.float32))
    assert row.tolist() == [1, 2, 4, 8]
    assert [percentile(row, percent) for percent in (0, 25, 50, 100)] == [1, 1.75, 3, 8]
    assert percentiles(row, (25, 75)).tolist() == [1.75, 5]
    assert median(row) == 3
