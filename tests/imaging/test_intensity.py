import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctmr.imaging.intensity import Intensity, ct_window

SCANNER = np.arange(-1024, 3072, dtype=np.float32)  # HU of a 12-bit scanner
ENDS = {"wide": (-1024, 3071), "brain": (0, 80), "piecewise": (-1024, 3071)}


def array(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("name", ENDS)
def test_window_maps_its_ends_to_minus_one_and_one_in_hu(name):
    window = ct_window(name)
    assert (window.unit, window.low, window.high) == ("HU", *ENDS[name])
    assert window.to_unit(array(*ENDS[name])).tolist() == [-1, 1]
    assert window.from_unit(array(-1, 1)).tolist() == list(ENDS[name])


@pytest.mark.parametrize("name", ENDS)
def test_window_clips_what_lies_outside(name):
    window = ct_window(name)
    low, high = ENDS[name]
    assert window.to_unit(array(low - 500, high + 500)).tolist() == [-1, 1]
    assert window.from_unit(array(-1.5, 1.5)).tolist() == [low, high]


@pytest.mark.parametrize("name", ["wide", "piecewise"])
def test_window_of_the_whole_scanner_range_comes_back_within_half_a_hu(name):
    window = ct_window(name)
    back = window.from_unit(window.to_unit(SCANNER))
    assert np.abs(back - SCANNER).max() < 0.5
    assert np.array_equal(np.rint(back), SCANNER)


def test_brain_window_comes_back_inside_and_is_clipped_outside():
    window = ct_window("brain")
    back = window.from_unit(window.to_unit(SCANNER))
    assert np.allclose(back, np.clip(SCANNER, 0, 80), atol=1e-4)


def test_wide_window_by_hand():
    # 1023.5 HU is the middle of -1024 and 3071; 1024/4095 * 2 - 1 = -0.4998779
    assert ct_window("wide").to_unit(array(1023.5, 0)) == pytest.approx([0, -0.4998779], abs=1e-6)


def test_piecewise_window_gives_soft_tissue_half_of_the_range():
    low, middle, high = ct_window("piecewise").to_unit(array(-100, 50, 200))
    assert high - low == pytest.approx(1.0)  # half of 2
    assert middle == pytest.approx((low + high) / 2)  # 50 HU is the middle of -100..200
    assert -1 < low < high < 1  # the rest is for air and for bone


@pytest.mark.parametrize("name", ENDS)
def test_window_is_monotone(name):
    steps = np.diff(ct_window(name).to_unit(SCANNER))
    assert (steps >= 0).all()
    assert steps.max() > 0


def test_grey_values_map_by_their_range():
    grey = Intensity("grey", (0.0, 255.0))
    # 51 / 255 * 2 - 1 = -0.6
    assert grey.to_unit(array(0, 51, 255)) == pytest.approx([-1, -0.6, 1])


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (4, 5, 3)])
def test_shape_is_kept_and_the_type_is_float32(shape):
    window = ct_window("wide")
    image = np.zeros(shape, np.float32)
    for result in (window.to_unit(image), window.from_unit(image)):
        assert result.shape == shape
        assert result.dtype == np.float32


def test_input_is_not_changed():
    image = array(-2000, 0, 5000)
    ct_window("wide").to_unit(image)
    assert image.tolist() == [-2000, 0, 5000]


@given(st.lists(st.floats(-4000, 4000, width=32), min_size=2, max_size=5, unique=True).map(sorted))
def test_any_knots_come_back(values):
    if min(np.diff(values)) < 0.01:
        return
    levels = (-1.0, *np.linspace(-1, 1, len(values))[1:-1].tolist(), 1.0)
    knots = np.array(values, np.float32)
    intensity = Intensity("grey", tuple(values), levels)
    assert np.allclose(intensity.from_unit(intensity.to_unit(knots)), knots, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize(
    ("values", "levels"),
    [((0.0, 1.0), (-1.0, 0.0, 1.0)), ((0.0, 1.0, 2.0), (-1.0, 1.0)), ((0.0,), (-1.0,)), ((), ())],
)
def test_knots_that_do_not_pair_are_refused(values, levels):
    with pytest.raises(ValueError, match="values and levels must pair, at least two"):
        Intensity("grey", values, levels)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ((1.0, 0.0), (-1.0, 1.0)),
        ((5.0, 5.0), (-1.0, 1.0)),
        ((0.0, 1.0), (1.0, -1.0)),
        ((0.0, 1.0, 2.0), (-1.0, -1.0, 1.0)),
    ],
)
def test_knots_that_do_not_increase_are_refused(values, levels):
    with pytest.raises(ValueError, match="knots must be finite and increase strictly"):
        Intensity("grey", values, levels)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (-1.0, 0.5), (-2.0, 1.0)])
def test_levels_that_do_not_span_the_unit_range_are_refused(levels):
    with pytest.raises(ValueError, match="levels must run from -1 to 1"):
        Intensity("grey", (0.0, 1.0), levels)


@pytest.mark.parametrize("values", [(0.0, float("nan")), (float("-inf"), float("inf"))])
def test_knots_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="knots must be finite"):
        Intensity("grey", values)
