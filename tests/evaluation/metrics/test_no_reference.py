"""Figures without the truth: what they are for copies, negatives, noise, shifts and mirrored results."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import normalized_mutual_information

from ctmr.evaluation.metrics.no_reference import (
    MIRROR_MARGIN,
    copy_correlation,
    copy_difference,
    local_mutual_information,
    mirror_check,
    no_reference_metrics,
    slice_jitter,
    structure_kept,
)
from ctmr.system.rng import stream
from support.heads import head


def slices(modality: str, subjects: range = range(3), size: int = 64) -> np.ndarray:
    images = [head(n, modality, size, size) for n in subjects]
    return np.stack(images).astype(np.float32) / 127.5 - 1


def noise(shape: tuple[int, ...], *key: int | str) -> np.ndarray:
    return stream("noise", *key).uniform(-1, 1, shape).astype(np.float32)


CT, MR = slices("ct"), slices("mr")
MASK = CT > -0.9
ALL = np.ones(CT.shape, np.bool_)


def wedge(size: int = 48) -> np.ndarray:
    """A head whose left half differs from its right: a wedge, and a spot in it."""
    rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = np.where(np.hypot(rows, columns) < 0.9, 0.0, -1.0)
    image[(np.abs(rows) < 0.6 * columns) & (columns < 0.7)] = 0.6
    image[np.hypot(rows - 0.3, columns + 0.4) < 0.15] = -0.5
    return image.astype(np.float32)[None]


# A copy


def test_copy_is_told_by_exact_figures() -> None:
    found = no_reference_metrics(MR, MR.copy(), MASK)
    assert found["copy_correlation"] == 1
    assert found["copy_difference"] == 0
    assert found["structure_kept"] == 1
    assert found["local_nmi"] == pytest.approx(2, abs=1e-12)
    assert found["slice_jitter"] == found["slice_jitter_source"]


def test_negative_keeps_all_structure_and_is_no_copy() -> None:
    assert structure_kept(MR, -MR, MASK) == pytest.approx(1, abs=1e-6)
    assert local_mutual_information(MR, -MR, MASK) > 1.9
    assert copy_correlation(MR, -MR, MASK) == -1
    assert copy_difference(MR, -MR, MASK) == pytest.approx(np.abs(MR[MASK]).mean(), rel=1e-6)


def test_flat_result_and_noise_keep_nothing() -> None:
    flat, random = np.zeros_like(MR), noise(MR.shape)
    assert structure_kept(MR, flat, MASK) == 0
    assert local_mutual_information(MR, flat, MASK) == pytest.approx(1)
    assert copy_correlation(MR, flat, MASK) == 0
    assert abs(structure_kept(MR, random, MASK)) < 0.05
    assert abs(copy_correlation(MR, random, MASK)) < 0.05


def test_correlation_and_difference_by_hand() -> None:
    source = np.array([[[-1, 0, 1, 1]]], np.float32)
    result = np.array([[[0, 0, 1, -1]]], np.float32)
    mask = np.array([[[True, True, True, False]]])
    # Deviations -1, 0, 1 and -1/3, -1/3, 2/3: 1 / sqrt(2 * 6/9).
    assert copy_correlation(source, result, mask) == pytest.approx(np.sqrt(3) / 2)
    assert copy_difference(source, result, mask) == pytest.approx(1 / 6)


# Structure


@pytest.mark.parametrize("figure", [structure_kept, local_mutual_information])
def test_structure_is_lost_by_blurring_shifting_and_exchanging_patients(figure) -> None:
    whole = figure(CT, MR, MASK)
    assert whole > figure(CT, gaussian_filter(MR, (0, 2, 2)), MASK)
    shifted = [figure(CT, np.roll(MR, by, axis=2), MASK) for by in (1, 2, 4)]
    assert whole > shifted[0] > shifted[1] > shifted[2]
    assert whole > figure(CT, slices("mr", range(10, 13)), MASK)


def test_local_information_of_one_window_is_that_of_its_levels() -> None:
    a, b = noise((1, 16, 16), "a"), noise((1, 16, 16), "b")

    def levels(image: np.ndarray) -> np.ndarray:
        share = (image - image.min()) / (image.max() - image.min())
        return np.minimum(np.floor(8 * share), 7)

    expected = normalized_mutual_information(levels(a), levels(b), bins=8)
    found = local_mutual_information(a, b, np.ones(a.shape, np.bool_))
    assert found == pytest.approx(expected, rel=1e-6)


def test_local_information_of_independent_noise_is_what_is_stated() -> None:
    a, b = noise((4, 64, 64), "a"), noise((4, 64, 64), "b")
    found = local_mutual_information(a, b, np.ones(a.shape, np.bool_))
    assert found == pytest.approx(1.03, abs=0.005)


def test_no_window_with_enough_head_or_anything_to_see_has_no_local_information() -> None:
    small = np.zeros((1, 12, 40), np.float32)
    assert local_mutual_information(small, small, small == 0) is None
    few = np.zeros(MR.shape, np.bool_)
    few[:, 30:32, 30:32] = True
    assert local_mutual_information(CT, MR, few) is None
    flat = np.zeros(MR.shape, np.float32)
    assert local_mutual_information(flat, flat, ALL) is None
    assert "local_nmi" not in no_reference_metrics(CT, MR, few)


def test_only_the_head_counts() -> None:
    other = MR.copy()
    other[:, :4] = (
        0.5  # four rows of air, not within reach of the descriptor of any pixel of the head
    )
    mask = MASK.copy()
    mask[:, :12] = False
    for figure in (structure_kept, copy_correlation, copy_difference):
        assert figure(CT, MR, mask) == figure(CT, other, mask)
    assert slice_jitter(MR, mask) == slice_jitter(other, mask)


# Slices


def test_jitter_by_hand() -> None:
    stack = np.zeros((4, 5, 5), np.float32)
    stack[1] = 0.5
    whole = np.ones(stack.shape, np.bool_)
    # Second differences: 0 - 1 + 0 = -1, and 0.5 - 0 + 0 = 0.5; halved to shares of the range.
    assert slice_jitter(stack, whole) == pytest.approx((1 + 0.5) / 2 / 2)
    mask = whole.copy()
    mask[3] = False  # only the first three slices show head
    assert slice_jitter(stack, mask) == pytest.approx(0.5)


def test_slices_that_change_evenly_have_no_jitter_and_flicker_has() -> None:
    ramp = np.linspace(-0.5, 0.5, 8)[:, None, None] * np.ones((8, 16, 16))
    whole = np.ones(ramp.shape, np.bool_)
    assert slice_jitter(ramp.astype(np.float32), whole) == pytest.approx(0, abs=1e-7)
    flicker = 0.05 * (-1.0) ** np.arange(8)[:, None, None]
    assert slice_jitter((ramp + flicker).astype(np.float32), whole) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_slices_have_no_jitter(count) -> None:
    assert slice_jitter(MR[:count], MASK[:count]) is None
    assert "slice_jitter" not in no_reference_metrics(CT[:count], MR[:count], MASK[:count])


# Mirrored


def test_mirrored_wedge_is_found_and_the_upright_one_is_not() -> None:
    source = wedge()
    result = gaussian_filter(-source, (0, 1, 1)) + 0.05 * noise(source.shape)
    mask = source > -1
    upright = mirror_check(source, result, mask)
    assert not upright.looks_mirrored
    assert upright.upright > upright.mirrored + 10 * MIRROR_MARGIN
    turned = mirror_check(source, np.ascontiguousarray(result[..., ::-1]), mask)
    assert turned.looks_mirrored
    assert (turned.upright, turned.mirrored) == pytest.approx((upright.mirrored, upright.upright))


def test_head_beside_the_middle_is_no_sign_of_mirroring() -> None:
    source = np.pad(wedge(), ((0, 0), (0, 0), (16, 0)), constant_values=-1)
    assert not mirror_check(source, -source, source > -1).looks_mirrored
    assert mirror_check(source, -source[..., ::-1], source > -1).looks_mirrored


def test_symmetric_and_flat_results_are_not_called_mirrored() -> None:
    image = wedge()
    symmetric = image + image[..., ::-1]
    for result in (symmetric, np.zeros_like(image), noise(image.shape)):
        assert not mirror_check(image, result, image > -1).looks_mirrored
    assert not mirror_check(np.zeros_like(image), np.zeros_like(image), image > -1).looks_mirrored


# Misuse


@pytest.mark.parametrize(
    "figure",
    [
        no_reference_metrics,
        structure_kept,
        local_mutual_information,
        copy_correlation,
        copy_difference,
        mirror_check,
    ],
)
def test_shapes_that_differ_and_empty_masks_are_refused(figure) -> None:
    with pytest.raises(ValueError, match=r"must be \(K, H, W\)"):
        figure(CT, MR[:1], MASK)
    with pytest.raises(ValueError, match=r"must be \(K, H, W\)"):
        figure(CT[0], MR[0], MASK[0])
    with pytest.raises(ValueError, match="mask must not be empty"):
        figure(CT, MR, np.zeros(CT.shape, np.bool_))
