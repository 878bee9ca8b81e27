"""Slices as the screen has them: the patient's right at the left, front and top above, for every order of axes."""

import io
from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image as Picture

from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.viewer.drawing import Shown, grid_of, letters_of, slice_of

ORIENTATIONS = ["RAS", "LAS", "LPS", "RPI", "ASR", "SAL", "IPR", "PIL"]


def wedge(axes: str) -> Volume:
    """A CT (16, 20, 12) with 500 HU on the patient's right, front and top, stored with other axes."""
    array = np.full((16, 20, 12), -1000, np.float32)
    array[12:, 15:, 9:] = 500
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    from nibabel.orientations import apply_orientation

    turned = apply_orientation(array, turn)
    return Volume(
        np.ascontiguousarray(turned, np.float32), affine @ inv_ornt_aff(turn, array.shape), "ct"
    )


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_wedge_on_the_right_stands_on_the_left_whatever_the_header_says(axes: str) -> None:
    volume = wedge(axes)
    assert "".join(volume.axes) == axes
    shown = Shown(volume, "ct")
    values = shown.about["low"] + shown.about["step"] * shown.values.astype(float)
    axial = slice_of(shown.values, "axial", 11)
    assert axial.shape == (20, 16)
    assert (axial[:5, :4] == shown.values.max()).all()  # front, right
    assert axial.astype(float).sum() == shown.values.max() * 20.0
    coronal = slice_of(shown.values, "coronal", 19)
    assert coronal.shape == (12, 16)
    assert (coronal[:3, :4] == shown.values.max()).all()  # top, right
    sagittal = slice_of(shown.values, "sagittal", 15)
    assert sagittal.shape == (12, 20)
    assert (sagittal[:3, :5] == shown.values.max()).all()  # top, front at the left
    assert (values.min(), values.max()) == (-1000, 500)
    grid = grid_of(volume)
    assert grid["letters"]["axial"] == ["R", "L", "A", "P"]
    assert grid["letters"]["coronal"] == ["R", "L", "S", "I"]
    assert grid["letters"]["sagittal"] == ["A", "P", "S", "I"]
    assert grid["spacing"] == [2.0, 1.5, 3.0]
    np.testing.assert_allclose(grid["affine"], np.diag([2.0, 1.5, 3.0, 1.0]), atol=1e-12)


def test_oblique_axis_has_two_letters() -> None:
    """30 degrees about the axis from foot to head: cos 30 = 0.87, sin 30 = 0.5."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(np.pi / 6), -0.5], [0.5, np.cos(np.pi / 6)]]
    assert letters_of(turn)["axial"] == ["RA", "LP", "AL", "PR"]
    assert letters_of(turn)["coronal"][2:] == ["S", "I"]


def test_picture_has_no_letters_and_one_plane(tmp_path: Path) -> None:
    image = Image(np.array([[0, 255], [7, 8]], np.float32), "grey", 8)
    assert grid_of(image)["letters"] is None
    Shown(image, "mr").draw(tmp_path, "source")
    assert [path.name for path in tmp_path.iterdir()] == ["source-image-0001.png"]


def test_slice_holds_every_value_in_red_and_green_and_nothing_else(tmp_path: Path) -> None:
    array = np.array([-1024, 0, 3071, 256], np.float32).reshape(2, 2, 1)
    shown = Shown(Volume(array, np.eye(4), "ct"), "ct")
    assert (shown.about["low"], shown.about["step"]) == (-1024, 1)
    shown.draw(tmp_path, "source")
    content = (tmp_path / "source-axial-0001.png").read_bytes()
    picture = Picture.open(io.BytesIO(content))
    assert picture.info == {}
    stored = np.asarray(picture).astype(int)
    values = -1024 + 256 * stored[..., 0] + stored[..., 1]
    np.testing.assert_array_equal(values, array[::-1, ::-1, 0].T)


def test_mr_is_shown_by_percentiles_and_its_values_come_back_within_a_step() -> None:
    rng = np.random.default_rng(0)
    array = rng.random((20, 20, 20), np.float32) * 700
    shown = Shown(Volume(array, np.eye(4), "mr"), "mr")
    np.testing.assert_allclose(shown.about["window"], np.percentile(array, (0.5, 99.8)), atol=1e-4)
    back = shown.about["low"] + shown.about["step"] * shown.values
    assert np.abs(back - array).max() <= shown.about["step"]
