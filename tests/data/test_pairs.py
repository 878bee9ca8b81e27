import logging
from pathlib import Path

import numpy as np
import pytest

from ctmr.data.pairs import find_pairs, head_of, read_pair
from ctmr.errors import DataError, UsageError
from ctmr.evaluation.protocol import comparable
from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.io.image_info import write_image_info
from ctmr.io.images import write_image
from support.identity import smooth_head


def save(path: Path, array: np.ndarray, unit: str = "grey", depth: int = 8) -> Path:
    write_image(path, Image(array.astype(np.float32), unit, depth))
    return path


def square(size: int = 32, low: float = 0, high: float = 200) -> np.ndarray:
    """A bright square in the middle half of a dark image."""
    array = np.full((size, size), low)
    array[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = high
    return array


def pair_folder(folder: Path, *names: str, kinds: tuple[str, ...] = ("ct", "mr")) -> Path:
    for name in names:
        for kind in kinds:
            save(folder / kind / name, square())
    return folder


# Which pairs


def test_one_name_is_one_pair_whatever_the_suffix(tmp_path):
    save(tmp_path / "ct" / "b.tif", square())
    save(tmp_path / "mr" / "b.png", square())
    pair_folder(tmp_path, "a.png")
    first, second = find_pairs(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert (second.ct, second.mr) == (tmp_path / "ct" / "b.tif", tmp_path / "mr" / "b.png")
    assert (first.mask, first.level, first.patient) == (None, None, "a")


@pytest.mark.parametrize(
    ("name", "level"), [("s1_slice-07.png", 7), ("s1_slice12.png", 12), ("7.png", None)]
)
def test_level_is_the_number_of_the_slice(tmp_path, name, level):
    assert find_pairs(pair_folder(tmp_path, name))[0].level == level


def test_patient_is_what_the_pattern_finds(tmp_path):
    pair_folder(tmp_path, "head01_slice-1.png", "head01_slice-2.png", "other.png")
    patients = [pair.patient for pair in find_pairs(tmp_path, r"(head\d+)")]
    assert patients == ["head01", "head01", "other"]


@pytest.mark.parametrize(("pattern", "why"), [("(", "is not a regular"), ("head", "has no group")])
def test_bad_pattern_is_a_usage_error(tmp_path, pattern, why):
    with pytest.raises(UsageError, match=why):
        find_pairs(pair_folder(tmp_path, "a.png"), pattern)


def test_images_without_a_partner_are_counted_in_a_warning(tmp_path, caplog):
    pair_folder(tmp_path, "a.png")
    for kind, name in (("ct", "b"), ("mr", "c"), ("mr", "d")):
        save(tmp_path / kind / f"{name}.png", square())
    with caplog.at_level(logging.WARNING):
        assert [pair.name for pair in find_pairs(tmp_path)] == ["a"]
    assert "left out 3 scans without a partner" in caplog.text


def test_folder_without_common_names_is_refused(tmp_path):
    save(tmp_path / "ct" / "a.png", square())
    save(tmp_path / "mr" / "b.png", square())
    with pytest.raises(DataError, match=r"found 1 in ct/ \(a\), 1 in mr/ \(b\), none in both"):
        find_pairs(tmp_path)


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_missing_folder_is_named(tmp_path, kind):
    pair_folder(tmp_path, "a.png", kinds=tuple({"ct", "mr"} - {kind}))
    with pytest.raises(DataError, match="expected a folder of scans: found none") as caught:
        find_pairs(tmp_path)
    assert caught.value.file == str(tmp_path / kind)


def test_name_that_is_there_twice_is_refused(tmp_path):
    pair_folder(tmp_path, "a.png")
    save(tmp_path / "mr" / "a.tif", square())
    with pytest.raises(DataError, match="two scans are called 'a'") as caught:
        find_pairs(tmp_path)
    assert caught.value.file == str(tmp_path / "mr")


# Images and masks


def test_pair_is_read_with_unit_and_spacing(tmp_path):
    save(tmp_path / "ct" / "a.png", square(low=-1000, high=40), "HU", 16)
    write_image_info(tmp_path / "ct", "HU", (0.5, 0.5))
    save(tmp_path / "mr" / "a.png", square())
    images = read_pair(find_pairs(tmp_path)[0])
    assert (images["ct"].unit, images["ct"].spacing_mm) == ("HU", (0.5, 0.5))
    assert np.array_equal(images["ct"].array, square(low=-1000, high=40))
    assert images["mr"].unit == "grey"


def test_images_of_a_pair_have_one_size(tmp_path):
    save(tmp_path / "ct" / "a.png", square(32))
    save(tmp_path / "mr" / "a.png", square(40))
    with pytest.raises(DataError, match=r"found CT \(32, 32\) and MR \(40, 40\)") as caught:
        read_pair(find_pairs(tmp_path)[0])
    assert caught.value.file == str(tmp_path / "mr" / "a.png")


def mask_of(folder: Path) -> np.ndarray:
    pair = find_pairs(folder)[0]
    return head_of(pair, read_pair(pair))


def test_mask_file_is_the_head(tmp_path):
    pair_folder(tmp_path, "a.png")
    mask = np.zeros((32, 32))
    mask[3:5, 7:9] = 1
    save(tmp_path / "mask" / "a.png", mask)
    assert np.array_equal(mask_of(tmp_path), mask > 0)


def test_colour_mask_counts_where_it_is_not_black(tmp_path):
    pair_folder(tmp_path, "a.png")
    mask = np.zeros((32, 32, 3))
    mask[3:5, 7:9, 2] = 255  # blue
    save(tmp_path / "mask" / "a.png", mask)
    assert np.array_equal(mask_of(tmp_path), mask.any(axis=-1))


def test_without_a_mask_hu_decide(tmp_path):
    save(tmp_path / "ct" / "a.png", square(low=-1000, high=-200), "HU", 16)
    write_image_info(tmp_path / "ct", "HU")
    save(tmp_path / "mr" / "a.png", smooth_head(32, 32))  # is not looked at
    mask = mask_of(tmp_path)
    assert mask[9:23, 9:23].all()
    assert not mask[:7].any()


@pytest.mark.parametrize("colour", [False, True])
def test_without_hu_the_mr_decides(tmp_path, colour):
    save(tmp_path / "ct" / "a.png", smooth_head(32, 32))
    array = square(high=150)
    save(tmp_path / "mr" / "a.png", np.repeat(array[..., None], 3, axis=-1) if colour else array)
    mask = mask_of(tmp_path)
    assert mask[9:23, 9:23].all()
    assert not mask[:7].any()


def test_mask_of_another_size_is_refused(tmp_path):
    pair_folder(tmp_path, "a.png")
    save(tmp_path / "mask" / "a.png", square(40))
    with pytest.raises(DataError, match=r"mask of \(32, 32\): found \(40, 40\)") as caught:
        mask_of(tmp_path)
    assert caught.value.file == str(tmp_path / "mask" / "a.png")


def test_empty_mask_is_refused(tmp_path):
    pair_folder(tmp_path, "a.png")
    save(tmp_path / "mask" / "a.png", np.zeros((32, 32)))
    with pytest.raises(DataError, match="with 0 pixels in it"):
        mask_of(tmp_path)


def test_pair_without_a_head_is_refused(tmp_path):
    for kind in ("ct", "mr"):
        save(tmp_path / kind / "a.png", np.zeros((32, 32)))
    with pytest.raises(DataError, match="with 0 pixels in it") as caught:
        mask_of(tmp_path)
    assert caught.value.file == str(tmp_path / "mr" / "a.png")


# Values that are compared


def test_grey_levels_and_hu_are_compared_as_they_are_and_colours_by_their_mean():
    grey, mask = square(16), np.ones((16, 16), dtype=bool)
    for unit, depth in (("grey", 8), ("HU", 16)):
        image = Image(grey.astype(np.float32), unit, depth)
        assert np.array_equal(comparable(image, mask), grey)
    colour = np.stack([grey, 0 * grey, grey / 2], axis=-1).astype(np.float32)
    assert np.allclose(comparable(Image(colour, "grey", 8), mask), grey / 2)


def test_mr_volume_is_compared_by_percentiles_of_its_head_and_ct_in_hu():
    array = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    mask = array >= 500
    low, high = np.percentile(array[mask], (0.5, 99.5))
    found = comparable(Volume(array, np.eye(4), "mr"), mask)
    assert np.allclose(found, np.clip((array - low) / (high - low), 0, 1) * 1000, atol=1e-2)
    assert np.array_equal(comparable(Volume(array, np.eye(4), "ct"), mask), array)
