import io

import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.reporting.preview import GAP, LINE, MARK, SOFTWARE
from ctmr.translation.preview import SIDE, preview

# Sides of 20 mm to the right, 40 mm to the front and 30 mm up.
SHAPE = (20, 20, 10)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def picture(content: bytes) -> np.ndarray:
    image = Pillow.open(io.BytesIO(content))
    assert image.mode == "L"
    assert image.text == {"Software": SOFTWARE}
    return np.asarray(image)


def volume(array: np.ndarray, affine: np.ndarray = AFFINE) -> Volume:
    return Volume(array.astype(np.float32), affine, "mr")


def test_image_stands_beside_its_translation():
    grey = np.zeros((32, 64), np.float32)
    grey[:, 32:] = 255
    shown = picture(preview(Image(grey, "grey", 8), Image(255 - grey, "grey", 8), None))
    top, middle = LINE + SIDE // 4, shown.shape[1] // 2
    quarter = SIDE // 4
    row = shown[top]
    assert [row[GAP + quarter], row[GAP + 3 * quarter]] == [0, 255]
    assert [row[middle + GAP + quarter], row[middle + GAP + 3 * quarter]] == [255, 0]


def test_volume_is_shown_in_three_planes_at_one_scale():
    source, result = volume(np.random.default_rng(0).random(SHAPE)), volume(np.zeros(SHAPE))
    shown = picture(preview(source, result, (10, 10, 5)))
    # Axial 20 x 40 mm, coronal 20 x 30 mm, sagittal 40 x 30 mm; 8 pixels a mm.
    widths = (160, 160, 320)
    assert shown.shape == (2 * (LINE + SIDE + GAP), sum(widths) + 4 * GAP)
    upper = shown[LINE : LINE + SIDE]
    left = GAP
    for width, height in zip(widths, (320, 240, 240), strict=True):
        filled = upper[:, left : left + width] > 0
        assert abs(int(filled.any(axis=1).sum()) - height) <= 2
        left += width + GAP


@pytest.mark.parametrize(
    "flip", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1)], ids=["RAS", "LAS", "RPS", "RAI"]
)
def test_right_is_at_the_left_front_and_top_are_up_whatever_the_axes(flip):
    """A corner at the right, front and top of the patient, in each plane."""
    array = np.zeros(SHAPE)
    array[10:, 10:, 5:] = 1
    for axis, sign in enumerate(flip):
        array = np.flip(array, axis) if sign < 0 else array
    source = volume(array, AFFINE @ np.diag([*flip, 1.0]))
    shown = picture(preview(source, source, (15, 15, 7)))
    axial = shown[LINE : LINE + 320, GAP : GAP + 160]
    coronal = shown[LINE + 40 : LINE + 280, 2 * GAP + 160 : 2 * GAP + 320]
    sagittal = shown[LINE + 40 : LINE + 280, 3 * GAP + 320 : 3 * GAP + 640]
    for plane in (axial, coronal, sagittal):
        rows, columns = (n // 4 for n in plane.shape)
        corners = [plane[i, j] for i in (rows, 3 * rows) for j in (columns, 3 * columns)]
        assert corners == [255, 0, 0, 0]


def test_translation_is_marked(monkeypatch):
    drawn = []
    draw = "PIL.ImageDraw.ImageDraw.text"
    monkeypatch.setattr(draw, lambda _, place, text, **options: drawn.append((place, text)))
    scan = volume(np.zeros(SHAPE))
    preview(scan, scan, (1, 1, 1))
    assert [text for _, text in drawn] == ["source", MARK]
    assert "SYNTHETIC" in MARK
    assert drawn[1][0][1] > SIDE  # above the result, not the source


def test_hu_are_shown_by_one_window_whatever_the_scan_holds():
    first = Image(np.full((32, 32), -100, np.float32), "HU", 16)
    second = Image(np.full((32, 32), 200, np.float32), "HU", 16)
    shown = picture(preview(first, second, None))
    at = LINE + SIDE // 2
    # -100 HU is -0.7 and 200 HU 0.3 of the piecewise window.
    assert shown[at, SIDE // 2] == round(0.15 * 255)
    assert shown[at, shown.shape[1] // 2 + SIDE // 2] == round(0.65 * 255)
