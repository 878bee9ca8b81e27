"""Metrics against hand numbers, scikit-image, and SynthRAD's definitions written out step by step."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import shift, uniform_filter
from scipy.signal import fftconvolve
from skimage.metrics import (
    peak_signal_noise_ratio,
    structural_similarity,
)

from ctmr.evaluation.metrics.full_reference import mae, mae_shifted, mae_z, ms_ssim, nmi, psnr, ssim
from ctmr.types import BoolArray

HU = (-1024.0, 3000.0)
GREY = (0.0, 255.0)


def images(shape: tuple[int, ...] = (40, 32), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth head of HU with some beyond the range of SynthRAD, and a result like it."""
    rng = np.random.default_rng(seed)
    truth = uniform_filter(rng.normal(40, 5000, shape), 3).astype(np.float32)
    result = 0.8 * truth + uniform_filter(rng.normal(0, 4000, shape), 3).astype(np.float32)
    return result, truth


def everywhere(array: np.ndarray) -> BoolArray:
    return np.ones(array.shape, dtype=bool)


def ellipsoid(shape: tuple[int, ...]) -> BoolArray:
    """A head that reaches the border along the last axis."""
    axes = np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in shape[:-1]], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    return np.broadcast_to(inside[..., None], shape).copy()


# MAE and PSNR


def test_mae_counts_only_the_mask() -> None:
    truth = np.zeros((2, 2), dtype=np.float32)
    result = np.array([[10, -20], [1000, 1000]], dtype=np.float32)
    mask = np.array([[True, True], [False, False]])
    assert mae(result, truth, mask) == 15.0


def test_mae_is_not_clipped() -> None:
    truth = np.full((2, 2), -1024, dtype=np.float32)
    assert mae(truth + 6000, truth, everywhere(truth)) == 6000


def test_psnr_of_a_tenth_of_the_range_is_20_db_in_the_mask() -> None:
    truth = np.zeros((4, 4), dtype=np.float32)
    result = np.full((4, 4), 2500, dtype=np.float32)
    mask = np.zeros((4, 4), dtype=bool)
    result[:2], mask[:2] = 402.4, True
    assert psnr(result, truth, mask, HU) == pytest.approx(20.0)


def test_psnr_is_clipped_to_the_range() -> None:
    truth = np.full((4, 4), -3000, dtype=np.float32)
    assert psnr(truth + 9000, truth, everywhere(truth), HU) == 0
    assert psnr(truth + 1900, truth, everywhere(truth), HU) == pytest.approx(100)


@pytest.mark.parametrize(("span", "width"), [(HU, 4024), (GREY, 255), ((0.0, 65535.0), 65535)])
def test_psnr_equals_scikit_image(span: tuple[float, float], width: float) -> None:
    result, truth = (np.clip(image, *span) for image in images())
    expected = peak_signal_noise_ratio(truth.astype(float), result.astype(float), data_range=width)
    assert psnr(result, truth, everywhere(truth), span) == pytest.approx(expected, rel=1e-9)


def test_psnr_of_equal_images_is_the_cap() -> None:
    _, truth = images()
    assert psnr(truth, truth, everywhere(truth), HU) == pytest.approx(100.0)


# SSIM


def ssim_map(result: np.ndarray, truth: np.ndarray, mask: BoolArray, span: tuple[float, float]):
    """SynthRAD2023: clip, lower end outside the mask, shift to non-negative, then scikit-image's map."""
    low, high = span
    clipped = [np.clip(image.astype(float), low, high) for image in (result, truth)]
    first, second = (np.where(mask, image, low) - low for image in clipped)
    return structural_similarity(first, second, data_range=high - low, full=True)[1]


def cropped(array: np.ndarray) -> np.ndarray:
    return array[tuple(slice(3, -3) for _ in array.shape)]


@pytest.mark.parametrize("shape", [(40, 32), (101, 64), (18, 24, 20)])
@pytest.mark.parametrize("span", [HU, GREY])
def test_ssim_equals_synthrads_definition(
    shape: tuple[int, ...], span: tuple[float, float]
) -> None:
    result, truth = images(shape)
    mask = ellipsoid(shape)
    expected = cropped(ssim_map(result, truth, mask, span))[cropped(mask)].mean()
    assert 0.1 < expected < 0.99
    assert ssim(result, truth, mask, span) == pytest.approx(expected, rel=1e-9)


def test_ssim_with_a_full_mask_is_scikit_images() -> None:
    result, truth = (np.clip(image, *HU) for image in images())
    expected = structural_similarity(truth + 1024, result + 1024, win_size=7, data_range=4024)
    assert ssim(result, truth, everywhere(truth), HU) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ssim_of_a_thin_volume_is_that_of_its_slices(axis: int) -> None:
    result, truth = images((20, 24, 5))
    mask = ellipsoid((20, 24, 5))
    slices = [
        cropped(ssim_map(result[..., k], truth[..., k], mask[..., k], HU))[cropped(mask[..., k])]
        for k in range(5)
    ]
    turned = (np.moveaxis(array, 2, axis) for array in (result, truth, mask))
    assert ssim(*turned, HU) == pytest.approx(np.concatenate(slices).mean(), rel=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    truth = np.full((16, 16), 128, dtype=np.float32)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 128 * 64 + c1) / (128**2 + 64**2 + c1)
    assert ssim(truth / 2, truth, everywhere(truth), GREY) == pytest.approx(expected)


@pytest.mark.parametrize("similarity", [ssim, ms_ssim])
def test_similarity_does_not_look_outside_the_mask(similarity: Callable[..., float]) -> None:
    result, truth = images()
    mask = ellipsoid(truth.shape)
    spoiled = np.where(mask, result, 777).astype(np.float32)
    assert similarity(spoiled, truth, mask, HU) == similarity(result, truth, mask, HU)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (4, 5, 40)])
def test_ssim_is_not_defined_where_no_window_fits(shape: tuple[int, ...]) -> None:
    result, truth = images(shape)
    assert math.isnan(ssim(result, truth, everywhere(truth), HU))


def test_similarity_is_not_defined_at_the_border_alone() -> None:
    result, truth = images((128, 128))
    mask = everywhere(truth)
    mask[3:-3, 3:-3] = False
    assert math.isnan(ssim(result, truth, mask, HU))
    assert math.isnan(ms_ssim(result, truth, mask, HU))


# MS-SSIM


def literal_ms_ssim(
    result: np.ndarray, truth: np.ndarray, mask: BoolArray, span: tuple[float, float]
) -> float:
    """SynthRAD2025's evaluation step by step: luminance, contrast and structure apart, halved with a convolution."""
    low, high = span
    x, y = (
        np.where(mask, np.clip(image.astype(float), low, high), low) - low
        for image in (truth, result)
    )
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    short = [max(97 - n, 0) for n in mask.shape]
    around = [(n // 2, n - n // 2) for n in short]
    x, y, mask = (np.pad(array, around, mode="edge") for array in (x, y, mask))
    n = 7**mask.ndim
    product = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        ux, uy = uniform_filter(x, 7), uniform_filter(y, 7)
        vx = n / (n - 1) * (uniform_filter(x * x, 7) - ux * ux)
        vy = n / (n - 1) * (uniform_filter(y * y, 7) - uy * uy)
        vxy = n / (n - 1) * (uniform_filter(x * y, 7) - ux * uy)
        sx, sy = np.sqrt(vx.clip(0)), np.sqrt(vy.clip(0))
        luminance = ((2 * ux * uy + c1) / (ux * ux + uy * uy + c1)).clip(0)
        contrast = ((2 * sx * sy + c2) / (vx + vy + c2)).clip(0)
        structure = ((vxy + c2 / 2) / (sx * sy + c2 / 2)).clip(0)
        level = luminance**weight * contrast**weight * structure**weight
        product *= float(np.clip(cropped(level)[cropped(mask)].mean(), 0, 1))
        kernel = np.ones((2,) * mask.ndim) / 2**mask.ndim
        every = (slice(None, None, 2),) * mask.ndim
        x, y = (fftconvolve(image, kernel, mode="same")[every] for image in (x, y))
        mask = mask[every]
    return product


@pytest.mark.parametrize(
    ("shape", "span"),
    [((97, 97), HU), ((128, 101), GREY), ((40, 32), HU), ((200, 140), HU), ((99, 24, 18), HU)],
)
def test_ms_ssim_equals_synthrads_definition(
    shape: tuple[int, ...], span: tuple[float, float]
) -> None:
    result, truth = images(shape)
    mask = ellipsoid(shape)
    expected = literal_ms_ssim(result, truth, mask, span)
    assert 0.1 < expected < 0.99
    assert ms_ssim(result, truth, mask, span) == pytest.approx(expected, rel=1e-6)


def test_ms_ssim_of_opposite_images_is_zero() -> None:
    truth = np.random.default_rng(0).choice([0.0, 255.0], (64, 64)).astype(np.float32)
    assert ms_ssim(255 - truth, truth, everywhere(truth), GREY) < 0.01


def test_ms_ssim_of_a_thin_volume_of_one_slice_many_times_is_that_of_the_slice() -> None:
    result, truth = images((60, 50))
    mask = ellipsoid(truth.shape)
    thick = (np.repeat(array[..., None], 3, axis=2) for array in (result, truth, mask))
    assert ms_ssim(*thick, HU) == pytest.approx(ms_ssim(result, truth, mask, HU))


@pytest.mark.parametrize("shape", [(32, 40), (99, 20, 5), (18, 24, 20)])
def test_equal_images_are_wholly_alike(shape: tuple[int, ...]) -> None:
    _, truth = images(shape)
    for similarity in (ssim, ms_ssim):
        assert similarity(truth, truth, ellipsoid(shape), HU) == pytest.approx(1)


# The best shift


def test_shift_of_up_to_four_pixels_is_tolerated() -> None:
    _, truth = images((48, 40))
    mask = np.zeros(truth.shape, dtype=bool)
    mask[8:-8, 8:-8] = True
    for moved in ((0, 0), (3, -4), (-4, 1), (4, 4)):
        assert mae_shifted(np.roll(truth, moved, (0, 1)), truth, mask) == 0
    assert mae_shifted(np.roll(truth, (5, 0), (0, 1)), truth, mask) > 100


def test_best_shift_equals_a_search_with_scipy() -> None:
    for seed in range(3):
        result, truth = images((24, 20), seed)
        result = np.roll(result, (1, -2), (0, 1))
        every = [
            mae(shift(result, (i, j), order=0, mode="nearest"), truth, everywhere(truth))
            for i in range(-4, 5)
            for j in range(-4, 5)
        ]
        assert mae_shifted(result, truth, everywhere(truth)) == pytest.approx(min(every))


def test_shift_of_a_volume_is_one_for_all_its_slices() -> None:
    rng = np.random.default_rng(0)
    _, truth = images((32, 30, 40))
    mask = np.zeros(truth.shape, dtype=bool)
    mask[8:-8, 8:-8, 2:] = True
    result = np.roll(truth, (2, -3), (0, 1)) + rng.normal(0, 20, truth.shape).astype(np.float32)
    expected = mae(np.roll(result, (-2, 3), (0, 1)), truth, mask)
    assert mae_shifted(result, truth, mask) == pytest.approx(expected)
    turned = np.where(np.arange(40) < 20, result, np.roll(result, 6, 0)).astype(np.float32)
    assert mae_shifted(turned, truth, mask) > 2 * expected


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 33)])
def test_best_shift_is_never_worse_than_none(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        result, truth = (rng.normal(0, 100, shape).astype(np.float32) for _ in range(2))
        mask = rng.random(shape) < 0.1
        assert mae_shifted(result, truth, mask) <= mae(result, truth, mask)


# Figures of images without a unit


def test_error_of_z_scores_by_hand() -> None:
    truth = np.array([[0, 2], [900, 900]], dtype=np.float32)
    result = np.array([[70, 50], [0, 900]], dtype=np.float32)
    mask = np.array([[True, True], [False, False]])
    assert mae_z(result, truth, mask) == pytest.approx(2)  # -1, 1 against 1, -1


def test_error_of_z_scores_does_not_see_gain_and_offset() -> None:
    result, truth = images()
    mask = ellipsoid(truth.shape)
    assert mae_z(3 * result - 500, truth, mask) == pytest.approx(mae_z(result, truth, mask))
    assert mae_z(3 * truth - 500, truth, mask) == pytest.approx(0, abs=1e-5)


def test_mutual_information_of_four_pixels_by_hand() -> None:
    """H(A) = ln 2; H(B) of 3/4 and 1/4; H(A, B) of 1/2, 1/4 and 1/4. The fifth pixel is outside the mask."""
    a, b = np.array([[[0, 0, 1, 1, 9]], [[0, 0, 0, 1, 5]]], dtype=np.float32)
    quarter, half = math.log(4) / 4, math.log(2) / 2
    total = 2 * half + quarter + 0.75 * math.log(4 / 3)
    mask = np.array([[True, True, True, True, False]])
    assert nmi(a, b, mask) == pytest.approx(total / (half + 2 * quarter))


def test_mutual_information_runs_from_1_to_2() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 400, 400)).astype(np.float32)
    assert nmi(a, b, everywhere(a)) == pytest.approx(1, abs=1e-4)
    assert nmi(a, 9 - 3 * a, everywhere(a)) == pytest.approx(2)
    assert nmi(a, np.ones_like(a), everywhere(a)) == pytest.approx(1)


@pytest.mark.parametrize("metric", [mae_z, nmi])
def test_constant_images_have_no_such_figure(metric: Callable[..., float]) -> None:
    flat = np.full((8, 8), 7, dtype=np.float32)
    assert math.isnan(metric(flat, flat + 1, everywhere(flat)))


# What is refused

CALLS: dict[str, Callable[..., float]] = {
    "mae": mae,
    "mae_shifted": mae_shifted,
    "mae_z": mae_z,
    "nmi": nmi,
    "psnr": lambda *arrays: psnr(*arrays, HU),
    "ssim": lambda *arrays: ssim(*arrays, HU),
    "ms_ssim": lambda *arrays: ms_ssim(*arrays, HU),
}
every_metric = pytest.mark.parametrize("metric", CALLS.values(), ids=CALLS)


@every_metric
def test_an_empty_mask_is_refused(metric: Callable[..., float]) -> None:
    result, truth = images()
    with pytest.raises(ValueError, match="mask must not be empty"):
        metric(result, truth, ~everywhere(truth))


@every_metric
def test_differing_shapes_are_refused(metric: Callable[..., float]) -> None:
    result, truth = images()
    with pytest.raises(ValueError, match="one shape: got"):
        metric(result[1:], truth, everywhere(truth))


@every_metric
def test_a_mask_of_numbers_is_refused(metric: Callable[..., float]) -> None:
    result, truth = images()
    with pytest.raises(ValueError, match="mask must be boolean: got uint8"):
        metric(result, truth, np.ones(truth.shape, dtype=np.uint8))


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
@pytest.mark.parametrize("span", [(0.0, 0.0), (1.0, -1.0), (0.0, math.nan)])
def test_a_span_that_is_none_is_refused(
    metric: Callable[..., float], span: tuple[float, float]
) -> None:
    result, truth = images()
    with pytest.raises(ValueError, match=r"span must be \(low, high\) with low < high"):
        metric(result, truth, everywhere(truth), span)
