"""Metrics against hand numbers and scikit-image; the head mask against drawn heads."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ctmr.metrics import BoolArray, Summary, head_mask, mae, psnr, ssim, summarise

HU_RANGE = 4095.0


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, BoolArray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(40, 300, (40, 32)).astype(np.float32)
    result = truth + rng.normal(0, 80, truth.shape).astype(np.float32)
    return result, truth, np.ones(truth.shape, dtype=bool)


def disk(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> BoolArray:
    i, j = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((i - centre[0]) ** 2 + (j - centre[1]) ** 2 <= radius**2)


def test_mae_counts_only_the_mask() -> None:
    truth = np.zeros((2, 2), dtype=np.float32)
    result = np.array([[10, -20], [1000, 1000]], dtype=np.float32)
    mask = np.array([[True, True], [False, False]])
    assert mae(result, truth, mask) == 15.0


def test_psnr_of_a_tenth_of_the_range_is_20_db_in_the_mask() -> None:
    truth = np.zeros((4, 4), dtype=np.float32)
    result = np.full((4, 4), 5000, dtype=np.float32)
    mask = np.zeros((4, 4), dtype=bool)
    result[:2], mask[:2] = 409.5, True
    assert psnr(result, truth, mask, HU_RANGE) == pytest.approx(20.0)


def test_psnr_equals_scikit_image_with_a_full_mask() -> None:
    result, truth, mask = images()
    expected = peak_signal_noise_ratio(
        truth.astype(float), result.astype(float), data_range=HU_RANGE
    )
    assert psnr(result, truth, mask, HU_RANGE) == pytest.approx(expected, rel=1e-9)


def test_psnr_of_equal_images_is_the_cap() -> None:
    _, truth, mask = images()
    assert psnr(truth, truth, mask, HU_RANGE) == pytest.approx(100.0)


def test_ssim_equals_scikit_image_where_its_windows_fit() -> None:
    result, truth, mask = images()
    inner = np.zeros_like(mask)
    inner[3:-3, 3:-3] = True  # scikit-image leaves out windows that reach over the border
    expected = structural_similarity(
        truth.astype(float), result.astype(float), win_size=7, data_range=HU_RANGE
    )
    assert ssim(result, truth, inner, HU_RANGE) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    truth = np.full((16, 16), 0.5, dtype=np.float32)
    result = np.full((16, 16), 0.25, dtype=np.float32)
    c1 = 0.01**2
    expected = (2 * 0.5 * 0.25 + c1) / (0.5**2 + 0.25**2 + c1)
    assert ssim(result, truth, truth > 0, 1.0) == pytest.approx(expected)


def test_ssim_looks_at_the_mask_only() -> None:
    result, truth, mask = images()
    mask[:, 16:] = False
    spoiled = result.copy()
    spoiled[:, 24:] = 0
    assert ssim(spoiled, truth, mask, HU_RANGE) == ssim(result, truth, mask, HU_RANGE)


@pytest.mark.parametrize("metric", ["mae", "psnr", "ssim"])
def test_an_empty_mask_is_refused(metric: str) -> None:
    result, truth, mask = images()
    call = {
        "mae": lambda: mae(result, truth, ~mask),
        "psnr": lambda: psnr(result, truth, ~mask, 1.0),
        "ssim": lambda: ssim(result, truth, ~mask, 1.0),
    }[metric]
    with pytest.raises(ValueError, match="mask must not be empty"):
        call()


def test_differing_shapes_are_refused() -> None:
    result, truth, mask = images()
    with pytest.raises(ValueError, match="one shape: got"):
        mae(result[1:], truth, mask)


def test_a_mask_of_numbers_is_refused() -> None:
    result, truth, mask = images()
    with pytest.raises(ValueError, match="mask must be boolean: got uint8"):
        mae(result, truth, mask.astype(np.uint8))  # type: ignore[arg-type]


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan])
def test_a_range_that_is_not_positive_is_refused(data_range: float) -> None:
    result, truth, mask = images()
    with pytest.raises(ValueError, match="data_range must be positive"):
        psnr(result, truth, mask, data_range)
    with pytest.raises(ValueError, match="data_range must be positive"):
        ssim(result, truth, mask, data_range)


def test_head_mask_of_a_ct_holds_the_sinus_and_leaves_the_head_rest() -> None:
    head = disk((128, 128), (64, 64), 40)
    image = np.full((128, 128), -1000, dtype=np.float32)
    image[head] = 40
    image[disk((128, 128), (40, 64), 6)] = -1000  # a sinus
    image[20:40, 63:65] = -1000  # that opens outwards
    image[105:107, 30:98] = 200  # a head rest that touches the head
    mask = head_mask(image, -300)
    overlap = 2 * np.sum(mask & head) / (mask.sum() + head.sum())
    assert overlap > 0.98
    assert mask[40, 64]
    assert not mask[106, 35]


@pytest.mark.parametrize("threshold", [50.0, None])
def test_head_mask_of_an_mr_reaches_over_the_dark_skull_to_the_scalp(
    threshold: float | None,
) -> None:
    head = disk((128, 128), (64, 64), 45)
    image = np.random.default_rng(1).rayleigh(4, (128, 128)).astype(np.float32)
    image[head] = 200
    image[disk((128, 128), (64, 64), 42)] = 5  # skull
    image[disk((128, 128), (64, 64), 37)] = 150  # brain
    image[disk((128, 128), (64, 64), 8)] = 10  # ventricle
    image[90:112, 60:66] = 3  # a gap in the scalp
    mask = head_mask(image, threshold)
    overlap = 2 * np.sum(mask & head) / (mask.sum() + head.sum())
    assert overlap > 0.98
    assert mask[64, 64]


def test_head_mask_reaches_the_border_of_a_cropped_image() -> None:
    image = np.full((64, 64), -1000, dtype=np.float32)
    image[:40] = 40
    assert np.array_equal(head_mask(image, -300), image > 0)


def test_head_mask_of_an_image_full_of_tissue_is_full() -> None:
    assert head_mask(np.full((32, 32), 40, dtype=np.float32), -300).all()


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_head_mask_of_a_constant_image_is_empty(threshold: float | None) -> None:
    mask = head_mask(np.full((32, 32), -7, dtype=np.float32), threshold)
    assert mask.dtype == np.bool_
    assert not mask.any()


def test_head_mask_keeps_what_is_too_thin_for_the_opening() -> None:
    image = np.zeros((128, 128), dtype=np.float32)
    image[60, 20:100] = 1
    assert head_mask(image, 0.5).sum() >= 80


def test_summary_of_two_patients_by_hand() -> None:
    summary = summarise([1.0, 3.0])
    assert (summary.mean, summary.sd) == (2.0, pytest.approx(math.sqrt(2)))
    assert summary.ci95 == (1.0, 3.0)  # a quarter of the resamples are (1, 1), a quarter (3, 3)


def test_summary_of_one_patient_has_no_width() -> None:
    assert summarise([4.5]) == Summary(4.5, 0.0, (4.5, 4.5))


def test_bootstrap_interval_is_near_the_normal_one_for_many_patients() -> None:
    values = np.random.default_rng(3).normal(100, 10, 400)
    low, high = summarise(values.tolist()).ci95
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.1)
    assert high == pytest.approx(values.mean() + half, abs=0.1)


def test_bootstrap_repeats_with_its_seed_and_differs_with_another() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 9.5, 3.25, 2.125]
    assert summarise(values, seed=1) == summarise(values, seed=1)
    assert summarise(values, seed=1).ci95 != summarise(values, seed=2).ci95


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_values_that_cannot_be_summarised_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values, one for each patient"):
        summarise(values)
