"""The head mask against drawn heads; Dice and Hausdorff distance against hand numbers and SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.morphology import isotropic_closing

from ctmr.evaluation.metrics.full_reference import dice, hd95
from ctmr.imaging.head import (
    air_for_missing,
    box_around,
    closing,
    depth_within,
    dilation,
    find_background,
    find_head,
    head_mask,
    largest_region,
)
from ctmr.imaging.volume import Volume
from ctmr.types import BoolArray, FloatArray, Modality


def disk(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> BoolArray:
    i, j = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((i - centre[0]) ** 2 + (j - centre[1]) ** 2 <= radius**2)


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


# The head


def test_head_mask_of_a_ct_holds_the_sinus_and_leaves_the_head_rest() -> None:
    head = disk((128, 128), (64, 64), 40)
    image = np.full((128, 128), -1000, dtype=np.float32)
    image[head] = 40
    image[disk((128, 128), (40, 64), 6)] = -1000  # a sinus
    image[20:40, 63:65] = -1000  # that opens outwards
    image[105:107, 30:98] = 200  # a head rest that touches the head
    mask = head_mask(image, hu=True)
    overlap = 2 * np.sum(mask & head) / (mask.sum() + head.sum())
    assert overlap > 0.98
    assert mask[40, 64]
    assert not mask[106, 35]


def test_head_mask_of_an_mr_reaches_over_the_dark_skull_to_the_scalp() -> None:
    head = disk((128, 128), (64, 64), 45)
    image = np.random.default_rng(1).rayleigh(4, (128, 128)).astype(np.float32)
    image[head] = 200
    image[disk((128, 128), (64, 64), 42)] = 5  # skull
    image[disk((128, 128), (64, 64), 37)] = 150  # brain
    image[disk((128, 128), (64, 64), 8)] = 10  # ventricle
    image[90:112, 60:66] = 3  # a gap in the scalp
    mask = head_mask(image, hu=False)
    overlap = 2 * np.sum(mask & head) / (mask.sum() + head.sum())
    assert overlap > 0.98
    assert mask[64, 64]


def test_head_mask_reaches_the_border_of_a_cropped_image() -> None:
    image = np.full((64, 64), -1000, dtype=np.float32)
    image[:40] = 40
    assert np.array_equal(head_mask(image, hu=True), image > 0)


def test_head_mask_of_an_image_full_of_tissue_is_full() -> None:
    assert head_mask(np.full((32, 32), 40, dtype=np.float32), hu=True).all()


@pytest.mark.parametrize(("grey", "hu"), [(-7, False), (200, False), (-1000, True)])
def test_head_mask_of_a_constant_image_is_empty(grey: float, hu: bool) -> None:
    mask = head_mask(np.full((32, 32), grey, dtype=np.float32), hu=hu)
    assert mask.dtype == np.bool_
    assert not mask.any()


def test_head_mask_keeps_what_is_too_thin_for_the_opening() -> None:
    image = np.zeros((128, 128), dtype=np.float32)
    image[60, 20:100] = 1
    assert head_mask(image, hu=False).sum() >= 80


# The background


def ball() -> BoolArray:
    """A head of 160 mm in a volume of 64 x 64 x 48 voxels of 4 mm, cut off below."""
    i, j, k = np.ogrid[:64, :64, :48]
    return np.asarray((i - 32) ** 2 + (j - 32) ** 2 + (k - 20) ** 2 <= 20**2)


def t1() -> tuple[FloatArray, BoolArray]:
    """An MR of that head: tissue of 200 to 800, no value in its air."""
    head, rng = ball(), np.random.default_rng(2)
    values = ndimage.gaussian_filter(rng.normal(size=head.shape), 2)
    return np.where(head, 500 + 100 * values / values.std(), 0).clip(0, 1000).astype(
        np.float32
    ), head


def agreement(array: FloatArray, head: BoolArray, modality: Modality = "mr") -> float:
    """The Dice coefficient of the head that is found and the true one, on the coarse grid of 4 mm."""
    found = find_head(Volume(array.astype(np.float32), np.diag([4.0, 4, 4, 1])), modality)
    return 0.0 if found is None else dice(found.coarse, head)


@pytest.mark.parametrize("level", [0.0, 0.3, -0.5, 1.0])
def test_head_is_found_on_a_background_in_the_middle_of_the_values(level: float) -> None:
    array, head = t1()
    scored = np.where(head, (array - array[head].mean()) / array[head].std(), level)
    background = find_background(scored.astype(np.float32), hu=False)
    assert background.level == pytest.approx(level)
    assert background.is_inside
    assert agreement(scored, head) > 0.98


def test_head_is_found_when_the_whole_volume_has_mean_zero() -> None:
    array, head = t1()
    assert agreement((array - array.mean()) / array.std(), head) > 0.98


@pytest.mark.parametrize("sigma", [10, 40, 80])
def test_head_is_found_in_noisy_air_with_a_ghost(sigma: float) -> None:
    array, head = t1()
    array += 0.08 * np.roll(array, 28, axis=1)
    rng = np.random.default_rng(4)
    noisy = np.hypot(
        array + sigma * rng.normal(size=head.shape), sigma * rng.normal(size=head.shape)
    )
    assert agreement(noisy, head) > 0.96


def test_head_is_found_beside_negative_ringing() -> None:
    array, head = t1()
    blurred = ndimage.gaussian_filter(array, 1.5)
    ringing = array + 0.5 * (array - blurred)
    assert ringing.min() < -50
    assert agreement(ringing, head) > 0.97


@pytest.mark.parametrize("rim", [-2000.0, -3024.0])
def test_head_is_found_in_a_ct_with_a_padded_rim(rim: float) -> None:
    head = ball()
    i, j = np.ogrid[:64, :64]
    outside = ((i - 32) ** 2 + (j - 32) ** 2 > 30**2)[..., None]
    ct = np.where(outside, rim, np.where(head, 40.0, -1000.0))
    assert agreement(ct, head, "ct") > 0.99


@pytest.mark.parametrize("rim", [0.0, -1024.0])
def test_brain_cut_out_of_a_ct_is_found(rim: float) -> None:
    head, rng = ball(), np.random.default_rng(5)
    ct = np.where(head, rng.normal(32, 8, head.shape), rim)
    assert agreement(ct, head, "ct") > 0.98


def test_brain_cut_out_of_an_mr_is_found() -> None:
    array, _ = t1()
    i, j, k = np.ogrid[:64, :64, :48]
    brain = (i - 32) ** 2 + (j - 32) ** 2 + (k - 20) ** 2 <= 14**2
    assert agreement(np.where(brain, array, 0), brain) > 0.98


def test_black_head_on_white_is_found() -> None:
    head = disk((128, 128), (64, 64), 40)
    image = np.where(head, 90, 255).astype(np.float32)
    image[disk((128, 128), (64, 64), 30)] = 30
    assert dice(head_mask(image, hu=False), head) > 0.98


def test_line_round_a_picture_is_not_the_background() -> None:
    image = np.zeros((128, 128), dtype=np.float32)
    image[[0, -1]] = image[:, [0, -1]] = 120
    image[disk((128, 128), (64, 64), 40)] = 200
    image[disk((128, 128), (64, 64), 12)] = 100
    assert find_background(image, hu=False).level == 0


def test_air_is_put_round_a_head_whose_background_is_no_air() -> None:
    array, head = t1()
    scored = np.where(head, (array - array[head].mean()) / array[head].std(), 0)
    volume = Volume(scored.astype(np.float32), np.diag([4.0, 4, 4, 1]), "mr")
    found = find_head(volume, "mr")
    assert found is not None
    on_air = found.on_air(volume).array
    assert np.mean(on_air[head] == volume.array[head]) > 0.99
    assert (on_air[~head] == volume.array.min()).all()


def test_ordinary_volume_keeps_its_background() -> None:
    array, _ = t1()
    volume = Volume(array, np.diag([4.0, 4, 4, 1]), "mr")
    found = find_head(volume, "mr")
    assert found is not None
    assert found.on_air(volume) is volume


def test_what_is_missing_outside_becomes_the_lowest_value() -> None:
    array = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    array[:2] = np.nan
    array[:, 5, 6] = np.inf
    filled, share = air_for_missing(array)
    missing = ~np.isfinite(array)
    assert share == missing.mean() == (2 * 42 + 3) / 210
    assert (filled[missing] == 2 * 42).all()
    assert np.array_equal(filled[~missing], array[~missing])


def test_what_is_missing_inside_or_in_a_cut_neck_is_left() -> None:
    array = np.zeros((5, 6, 7), dtype=np.float32)
    array[2, 3, 3] = array[2, 2, 0] = np.nan
    filled, share = air_for_missing(array)
    assert share == 0
    assert np.isnan(filled).sum() == 2


# Agreement of two masks


def test_dice_by_hand() -> None:
    first, second = box((8, 8), (0, 4), (0, 4)), box((8, 8), (2, 4), (0, 8))
    assert dice(first, second) == pytest.approx(2 * 8 / (16 + 16))
    assert dice(first, first) == 1
    assert dice(first, ~first) == 0


def test_hausdorff_distance_of_two_points_is_theirs() -> None:
    first, second = box((16, 16), (2, 3), (5, 6)), box((16, 16), (5, 6), (9, 10))
    assert hd95(first, second) == pytest.approx(5)
    assert hd95(first, second, (2.0, 0.5)) == pytest.approx(math.hypot(6, 2))


def test_hausdorff_distance_of_equal_masks_is_zero() -> None:
    mask = disk((32, 32), (16, 16), 9)
    assert hd95(mask, mask) == 0


def test_hausdorff_distance_is_between_surfaces() -> None:
    # A box in a box: no pixel of the small one is far from the large one, but its surface is.
    large, small = box((40, 40), (5, 35), (5, 35)), box((40, 40), (15, 25), (15, 25))
    assert hd95(small, large) >= 10


def test_hausdorff_distance_leaves_out_the_farthest_twentieth() -> None:
    long = box((1, 400), (0, 1), (0, 200))
    grown = long | box((1, 400), (0, 1), (0, 204))
    assert hd95(long, grown) == 0  # 4 of 204 pixels
    grown |= box((1, 400), (0, 1), (0, 220))
    assert hd95(long, grown) == pytest.approx(np.percentile([0] * 200 + list(range(1, 21)), 95))


def test_hausdorff_distance_counts_the_worse_direction() -> None:
    mask = disk((64, 64), (32, 20), 8)
    more = mask | disk((64, 64), (32, 50), 8)
    assert hd95(mask, more) == hd95(more, mask) > 20


def simple_itk_hd95(
    first: BoolArray, second: BoolArray, spacing: tuple[float, float, float]
) -> float:
    contours = []
    for mask in (first, second):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])  # SimpleITK has x first
        contours.append(sitk.LabelContour(image, False))
    ways = []
    for one, other in (contours, contours[::-1]):
        far = sitk.SignedMaurerDistanceMap(other, False, False, True)
        distances = np.abs(sitk.GetArrayFromImage(far))
        ways.append(np.percentile(distances[sitk.GetArrayFromImage(one) > 0], 95))
    return float(max(ways))


def test_hausdorff_distance_equals_simple_itks() -> None:
    rng = np.random.default_rng(0)
    grid = np.indices((24, 28, 20)).transpose(1, 2, 3, 0)
    spacing = (1.5, 0.75, 3.0)
    for _ in range(3):
        first, second = (
            np.linalg.norm((grid - rng.uniform(9, 12, 3)) / rng.uniform(4, 8, 3), axis=-1) < 1
            for _ in range(2)
        )
        expected = simple_itk_hd95(first, second, spacing)
        assert hd95(first, second, spacing) == pytest.approx(expected, rel=1e-5)


def test_masks_of_nothing_agree_in_nothing() -> None:
    mask, nothing = box((30, 40), (1, 2), (1, 2)), box((30, 40), (0, 0), (0, 0))
    for pair in ((mask, nothing), (nothing, mask)):
        assert dice(*pair) == 0
        assert hd95(*pair) == 50  # the diagonal
        assert hd95(*pair, (2.0, 2.0)) == 100
    assert math.isnan(dice(nothing, nothing))
    assert math.isnan(hd95(nothing, nothing))


@pytest.mark.parametrize("agreement", [dice, hd95])
def test_masks_of_two_shapes_are_refused(agreement) -> None:
    with pytest.raises(ValueError, match=r"one shape: got \(4, 4\) and \(4, 5\)"):
        agreement(np.ones((4, 4), dtype=bool), np.ones((4, 5), dtype=bool))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.5), (1.0, 1.0, 3.0)])
def test_closing_is_that_of_scikit_image(spacing):
    mask = np.random.default_rng(2).uniform(size=(24, 20, 12)[: len(spacing)]) < 0.05
    wide = np.pad(mask, 8)  # no border near
    assert np.array_equal(closing(wide, 3, spacing), isotropic_closing(wide, 3, spacing=spacing))


@pytest.mark.parametrize("shape", [(17, 23), (9, 14, 11)])
def test_closing_of_a_small_mask_is_that_of_the_whole_image(shape):
    rng = np.random.default_rng(3)
    spacing = (1.0, 1.7, 2.5)[: len(shape)]
    mask = np.zeros(shape, bool)
    for corner in (0, 3):  # at the border, and away from it
        place = tuple(slice(corner, corner + 6) for _ in shape)
        mask[place] = rng.random(mask[place].shape) > 0.6
        padded = np.pad(mask, 12, mode="edge")
        grown = ndimage.distance_transform_edt(~padded, sampling=spacing) <= 4
        whole = ndimage.distance_transform_edt(grown, sampling=spacing) > 4
        inner = tuple(slice(12, -12) for _ in shape)
        assert np.array_equal(closing(mask, 4, spacing), whole[inner])


@pytest.mark.parametrize("shape", [(40, 31), (17, 12, 15)])
def test_largest_region_has_the_holes_filled_that_scipy_fills(shape):
    tissue = np.random.default_rng(4).random(shape) < 0.6
    filled = ndimage.binary_fill_holes(tissue)
    labels, _ = ndimage.label(filled)
    assert (filled & ~tissue).any()
    largest = labels == np.bincount(labels[labels > 0]).argmax()
    assert np.array_equal(largest_region(tissue, 0.5), largest)  # no pixel has another so near


@pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
def test_depth_within_a_mask_is_the_distance_of_scipy(share):
    mask = np.random.default_rng(6).random((30, 41)) < share
    assert np.array_equal(depth_within(mask), ndimage.distance_transform_edt(mask))


def test_box_around_a_mask_ends_with_the_image():
    mask = np.zeros((9, 7, 5), bool)
    mask[3:5, 0, 2] = mask[4, 2, 4] = True
    assert box_around(mask) == (slice(2, 6), slice(0, 4), slice(1, 6))


@pytest.mark.parametrize("radius", [1.0, 3.0, 4.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.6, 0.6), (2.0, 2.1, 1.5), (1.0, 1.0, 5.0)])
def test_dilation_is_what_lies_within_the_radius(spacing, radius):
    mask = np.random.default_rng(5).random((19, 14, 11)[: len(spacing)]) < 0.02
    away = ndimage.distance_transform_edt(~mask, sampling=spacing)
    assert np.array_equal(dilation(mask, radius, spacing), away <= radius)


@pytest.mark.parametrize("radius", [2.0, 30.0])
def test_dilation_of_nothing_and_of_all_stays_as_it_is(radius):
    for mask in (np.zeros((6, 7), bool), np.ones((6, 7), bool)):
        assert np.array_equal(dilation(mask, radius, (1.0, 1.0)), mask)
