import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw
from scipy import ndimage

from ctmr.audit.burned_in import has_colour, has_letters
from ctmr.imaging.descriptors import background_of, inside_frame


def head(side=256):
    """An ellipse of grey with a bright rim, and where it is with 8 pixels around."""
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    away = np.hypot(rows / 0.75, columns / 0.6)
    picture = np.where(away < 1, np.where(away > 0.9, 230, 110), 0).astype(np.float32)
    return picture, ndimage.binary_dilation(away < 1, iterations=8)


def frame_left_out(picture):
    return inside_frame(picture, background_of(picture))


def letters(picture, near):
    return has_letters(picture, near, background_of(picture))


def written(text, place, grey=255):
    picture, near = head()
    canvas = Pillow.fromarray(picture)
    ImageDraw.Draw(canvas).text(place, text, fill=grey)
    return np.array(canvas), near


@pytest.mark.parametrize("thick", [1, 4])
def test_frame_is_left_out(thick):
    picture, _ = head()
    picture[:thick] = picture[-thick:] = 200
    picture[:, :thick] = picture[:, -thick:] = 200
    inside = slice(thick, 256 - thick)
    assert frame_left_out(picture) == (inside, inside)


def test_line_along_one_edge_is_left_out():
    picture, _ = head()
    picture[:, 2] = 120
    assert frame_left_out(picture) == (slice(0, 256), slice(3, 256))


def test_head_at_the_edge_is_no_frame():
    picture, _ = head()
    everything = slice(0, 256)
    assert frame_left_out(picture) == (everything, everything)
    cropped = picture[60:200, 70:190]
    assert frame_left_out(cropped) == (slice(0, 140), slice(0, 120))


@pytest.mark.parametrize("place", [(4, 4), (190, 4), (4, 238)])
def test_letters_beside_the_head_are_found(place):
    assert letters(*written("AB 12", place))


def test_no_letters_in_a_bare_picture_or_on_a_table_or_a_dot():
    picture, near = head()
    assert not letters(picture, near)
    picture[250:253, 20:236] = 200
    picture[20:26, 20:26] = 255
    assert not letters(picture, near)
    assert not letters(np.zeros((64, 64), np.float32), np.zeros((64, 64), bool))


def test_faint_letters_are_not_bright_enough():
    assert not letters(*written("AB 12", (4, 4), grey=40))


def test_ruler_is_found_by_its_ticks():
    picture, near = head()
    picture[248, 60:200] = 255
    picture[243:248, 60:200:14] = 255
    assert letters(picture, near)


def test_colour_is_what_differs_between_channels():
    grey = np.repeat(head()[0][..., None], 3, axis=-1)
    assert not has_colour(grey, 255.0)
    grey[:10, :10, 2] = 200
    assert has_colour(grey, 255.0)
    assert not has_colour(grey, 65535.0)
