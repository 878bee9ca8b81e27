import io

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr.audit.near_duplicates import MIN_LIKENESS, MIRRORS, find_copies, fingerprint
from support.pictures import look, slices


def resized(picture, factor):
    height, width = picture.shape
    size = round(width * factor), round(height * factor)
    return np.asarray(Pillow.fromarray(picture).resize(size, Pillow.Resampling.BICUBIC))


def as_jpeg(picture):
    stream = io.BytesIO()
    Pillow.fromarray(picture.astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Pillow.open(stream)).astype(np.float32)


COPIES = {
    "larger": lambda picture: resized(picture, 2.0),
    "smaller": lambda picture: resized(picture, 0.75),
    "brighter": lambda picture: np.clip(1.2 * picture + 10, 0, 255),
    "darker": lambda picture: 0.5 * picture,
    "gamma": lambda picture: 255 * (picture / 255) ** 1.3,
    "jpeg": as_jpeg,
    "padded": lambda picture: np.pad(picture, ((20, 4), (0, 30))),
    "noisy": lambda picture: picture + np.random.default_rng(1).normal(0, 3, picture.shape),
}


@pytest.mark.parametrize("modality", ["ct", "mr"])
@pytest.mark.parametrize("how", COPIES)
def test_copy_is_found(how, modality):
    picture = slices(11, modality)[1]
    (copy,) = find_copies([look(picture)[1], look(COPIES[how](picture))[1]])
    assert copy[:2] == (0, 1)
    assert MIN_LIKENESS <= copy.likeness <= 1.001
    assert copy.mirror == ""


@pytest.mark.parametrize(
    ("turn", "mirror"),
    list(zip([np.s_[:, :], np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]], MIRRORS, strict=True)),
)
def test_mirrored_copy_is_found_and_named(turn, mirror):
    picture = slices(12, "mr")[2]
    (copy,) = find_copies([look(picture)[1], look(picture[turn])[1]])
    assert copy.mirror == mirror
    assert copy.likeness == pytest.approx(1, abs=0.05)


def test_other_heads_and_other_modality_are_no_copies():
    prints = [
        look(slices(seed, modality)[1])[1] for seed in range(11, 16) for modality in ("ct", "mr")
    ]
    assert find_copies(prints) == []


def test_neighbouring_slices_are_no_copies():
    assert find_copies([look(each)[1] for each in slices(13, "mr")]) == []


def test_each_pair_comes_once_in_order():
    one, other = (look(slices(seed, "ct")[0])[1] for seed in (11, 12))
    found = find_copies([one, other, one, other, one])
    assert [copy[:2] for copy in found] == [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert all(copy.likeness == pytest.approx(1, abs=0.01) for copy in found)


def test_nothing_has_no_copies():
    assert find_copies([]) == []


def test_picture_without_head_has_no_fingerprint():
    picture = np.zeros((32, 32), np.float32)
    with pytest.raises(ValueError, match="head must not be empty"):
        fingerprint(picture, picture > 0)
