from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmr.errors import DataError
from ctmr.images import Image, write_image, write_image_info
from ctmr.naive import GRID_MM, fit_naive
from identity import smooth_head

SIZE = 32


def save(path: Path, array: np.ndarray, depth: int = 8) -> None:
    write_image(path, Image(array.astype(np.float32), "grey", depth))


def pairs(folder: Path, **images: tuple[np.ndarray, np.ndarray]) -> Path:
    """A folder of pairs from `name=(ct, mr)`, with masks that take the whole image."""
    for name, (ct, mr) in images.items():
        save(folder / "ct" / f"{name}.png", ct)
        save(folder / "mr" / f"{name}.png", mr)
        save(folder / "mask" / f"{name}.png", np.ones(ct.shape))
    return folder


def noise(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size)).astype(np.float64)


def source(array: np.ndarray, spacing: tuple[float, float] | None = None) -> Image:
    return Image(array.astype(np.float32), "grey", 8, spacing)


# Mean image


def test_mean_image_of_one_level_worked_by_hand(tmp_path):
    values = {"a_slice-1": 10.0, "b_slice-1": 40.0, "a_slice-2": 100.0}
    folder = pairs(tmp_path, **{n: (np.full((SIZE, SIZE), v), noise(0)) for n, v in values.items()})
    naive = fit_naive(folder, "ct")
    for level, mean in (
        (1, 25.0),
        (2, 100.0),
        (7, 50.0),
        (None, 50.0),
    ):  # 7 was not seen: all three
        answer = naive.answers(source(noise(1)), "8-bit", level)["mean image"]
        assert answer.shape == (SIZE, SIZE)
        assert np.allclose(answer, mean, atol=1e-4)


def test_mean_image_is_the_mean_of_the_pixels_at_the_grids_pixel_size(tmp_path):
    first, second = noise(1), noise(2)
    folder = pairs(tmp_path, a=(first, noise(3)), b=(second, noise(4)))
    for kind in ("ct", "mr"):
        write_image_info(folder / kind, "grey", (GRID_MM, GRID_MM))
    answer = fit_naive(folder, "ct").answers(source(noise(5), (GRID_MM, GRID_MM)), "8-bit", None)
    assert np.allclose(answer["mean image"], (first + second) / 2, atol=1e-4)


def test_mean_image_lies_centre_on_centre_in_mm(tmp_path):
    dot = np.zeros((64, 64))
    dot[24:40, 24:40] = 200  # 16 pixels of 2 mm about the centre
    folder = pairs(tmp_path, a=(dot, noise(0, 64)))
    for kind in ("ct", "mr"):
        write_image_info(folder / kind, "grey", (2.0, 2.0))
    seen = source(np.zeros((96, 48)), (1.0, 4.0))  # 96 x 192 mm
    answer = fit_naive(folder, "ct").answers(seen, "8-bit", None)["mean image"]
    bright = np.argwhere(answer > 100)
    assert answer.shape == (96, 48)
    assert bright.min(axis=0) == pytest.approx([32, 20], abs=1)  # 48 - 16, 24 - 4
    assert bright.max(axis=0) == pytest.approx([63, 27], abs=1)


def test_mean_image_goes_on_at_the_border_where_an_image_shows_more(tmp_path):
    folder = pairs(tmp_path, a=(np.full((SIZE, SIZE), 30.0), noise(0)))
    for kind in ("ct", "mr"):
        write_image_info(folder / kind, "grey", (2.0, 2.0))
    wide = source(np.zeros((100, 100)), (4.0, 4.0))  # 400 mm: more than the grid
    answer = fit_naive(folder, "ct").answers(wide, "8-bit", None)["mean image"]
    assert np.allclose(answer, 30, atol=1e-4)


def test_mean_of_colour_images_is_that_of_their_channels(tmp_path):
    colour = np.zeros((SIZE, SIZE, 3))
    colour[..., 0] = 90
    folder = pairs(tmp_path, a=(noise(0), colour))
    answer = fit_naive(folder, "mr").answers(source(noise(1)), "8-bit", None)
    assert np.allclose(answer["mean image"], 30, atol=1e-4)


# Monotone map


@pytest.mark.parametrize(
    "relation",
    [
        lambda x: x / 2 + 20,
        lambda x: 250 - x / 2,  # falling
        lambda x: np.where(x < 100, 10.0, 200.0),
        lambda x: 255 * (x / 255) ** 2,
    ],
)
def test_monotone_map_recovers_a_monotone_relation(tmp_path, relation):
    mr = noise(1)
    naive = fit_naive(pairs(tmp_path, a=(np.rint(relation(mr)), mr)), "ct")
    values = np.arange(mr.min(), mr.max() + 1).reshape(1, -1).repeat(16, axis=0)
    answer = naive.answers(source(values), "8-bit", None)["monotone map"]
    seen = np.isin(values, mr)
    assert np.abs(answer - relation(values))[seen].max() <= 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_monotone_map_is_monotone_and_no_worse_than_a_constant(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    mr = rng.integers(0, 256, (SIZE, SIZE))
    ct = np.clip(rng.normal(0, 40, mr.shape) + rng.uniform(-1, 1) * (mr - 128) + 128, 0, 255)
    ct = np.rint(ct)
    naive = fit_naive(pairs(tmp_path_factory.mktemp("pairs"), a=(ct, mr)), "ct")
    steps = np.diff(naive.knots[1])
    assert (steps >= -1e-9).all() or (steps <= 1e-9).all()
    answer = naive.answers(source(mr), "8-bit", None)["monotone map"]
    assert np.square(answer - ct).mean() <= ct.var() + 1e-6


def test_monotone_map_sees_the_head_only(tmp_path):
    mr, mask = noise(1), np.zeros((SIZE, SIZE))
    mask[:16] = 1
    ct = np.where(mask > 0, np.rint(mr / 2), 255)
    folder = pairs(tmp_path, a=(ct, mr))
    save(folder / "mask" / "a.png", mask)
    naive = fit_naive(folder, "ct")
    answer = naive.answers(source(mr), "8-bit", None)["monotone map"]
    assert np.abs(answer - mr / 2)[:16].max() <= 0.5


def test_values_that_break_the_order_share_the_mean_of_their_pixels(tmp_path):
    mr, ct = np.full((SIZE, SIZE), 10.0), np.zeros((SIZE, SIZE))
    mr[16:], ct[16:] = 20, 100  # 512 pixels each
    mr[:4], ct[:4] = 30, 60  # 128 pixels that fall
    naive = fit_naive(pairs(tmp_path, a=(ct, mr)), "ct")
    answer = naive.answers(source(np.full((SIZE, SIZE), 20.0)), "8-bit", None)["monotone map"]
    assert answer[0, 0] == pytest.approx((512 * 100 + 128 * 60) / 640)


def test_source_of_one_value_has_a_map(tmp_path):
    naive = fit_naive(pairs(tmp_path, a=(noise(1), np.full((SIZE, SIZE), 7.0))), "ct")
    answer = naive.answers(source(noise(2)), "8-bit", None)["monotone map"]
    assert np.allclose(answer, noise(1).mean(), atol=1e-3)


# What cannot be fitted


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_pairs_of_two_kinds_are_refused(tmp_path, kind):
    folder = pairs(tmp_path, a=(noise(0), noise(1)), b=(noise(2), noise(3)))
    save(folder / kind / "b.png", noise(4), depth=16)
    with pytest.raises(DataError, match="expected pairs of one kind") as caught:
        fit_naive(folder, "ct")
    assert caught.value.file == str(folder)


def test_answers_for_images_of_another_kind_are_refused(tmp_path):
    naive = fit_naive(pairs(tmp_path, a=(noise(0), noise(1))), "ct")
    with pytest.raises(DataError, match="found 8-bit to 8-bit, 8-bit to HU"):
        naive.answers(source(noise(1)), "HU", None)


def test_pairs_that_cannot_be_read_are_refused(tmp_path):
    folder = pairs(tmp_path, a=(noise(0), smooth_head(SIZE, SIZE)))
    (folder / "ct" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="found an empty file"):
        fit_naive(folder, "ct")
