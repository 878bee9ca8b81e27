import numpy as np
import pytest

from ctmr.imaging.upright import doubt_of
from ctmr.synthetic.head import synthesise_head


@pytest.fixture(scope="module", params=["ct", "mr"])
def slices(request):
    """Axial slices of a synthetic head, front at the top, with their masks."""
    head = synthesise_head(
        4, shape=(128, 128, 1), spacing_mm=(2, 2, 5), heights_mm=(100.0, 80.0, 60.0)
    )
    array = head.ct if request.param == "ct" else head.mr
    return [
        (array[::-1, ::-1, k].T.copy(), head.mask[::-1, ::-1, k].T.copy())
        for k in range(array.shape[2])
    ]


def test_upright_heads_are_believed(slices):
    assert [doubt_of(image, mask) for image, mask in slices] == [None] * 3


@pytest.mark.parametrize("turns", [1, 3])
def test_heads_on_their_side_are_not(slices, turns):
    doubts = [doubt_of(np.rot90(image, turns), np.rot90(mask, turns)) for image, mask in slices]
    assert doubts == ["a head that lies on its side"] * 3


def test_picture_that_is_bright_up_to_its_rim_shows_no_outline():
    noise = np.random.default_rng(0).uniform(0, 255, (64, 64))
    assert "up to its rim" in (doubt_of(noise, np.ones((64, 64), bool)) or "")


def test_two_heads_are_no_head(slices):
    image, mask = slices[1]
    beside = doubt_of(np.hstack([image, image]), np.hstack([mask, mask]))
    assert beside is not None
    assert "one round shape" in beside
