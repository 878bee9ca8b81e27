"""What is drawn on a picture beside the head: frames, letters and rulers, colours."""

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.imaging.descriptors import LETTER_SHARE, Box
from ctmr.imaging.head import Background
from ctmr.types import BoolArray, FloatArray

MIN_HIGH, MAX_HIGH_SHARE = 4, 0.05  # a letter: pixels, and part of the picture's height
MIN_TICKS = 5  # a ruler has at least so many
MIN_CHROMA = (
    0.16  # of the full range: a pixel whose red or blue differs from green by more has a colour
)
MIN_COLOURED_SHARE = 0.0005  # of the picture


def has_letters(picture: FloatArray, near: BoolArray, background: Background) -> bool:
    """Whether two or more bright pieces beside the head stand in a row as letters do, or are a ruler's ticks.

    Args:
        picture: (H, W) grey values.
        near: (H, W), the head and what lies close to it, where ears and tubes are.
        background: Of the picture.
    """
    there = (picture > background.brighter_by(LETTER_SHARE)) & ~near
    if not there.any():
        return False
    labels, count = scipy.ndimage.label(there, np.ones((3, 3), np.bool_))
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    letters = []
    for label, (box, area) in enumerate(
        zip(scipy.ndimage.find_objects(labels), areas, strict=True), 1
    ):
        if _is_ruler(labels[box] == label, picture.shape):
            return True
        if _is_letter(box, int(area), picture.shape[0]):
            letters.append(box)
    return any(_stand_together(one, other) for one in letters for other in letters)


def _is_letter(box: Box, area: int, height: int) -> bool:
    high, wide = (side.stop - side.start for side in box)
    sized = MIN_HIGH <= high <= max(2 * MIN_HIGH, MAX_HIGH_SHARE * height)
    return bool(sized and high / 6 <= wide <= 2 * high and area >= 0.15 * high * wide)


def _stand_together(one: Box, other: Box) -> bool:
    """Whether the other stands behind the first on its line, as high as it, give or take a quarter."""
    (rows, columns), (next_rows, next_columns) = one, other
    high = rows.stop - rows.start
    gap = next_columns.start - columns.stop
    level = abs(next_rows.stop - rows.stop) <= 0.25 * high
    same = abs(next_rows.start - rows.start) <= 0.25 * high
    return bool(level and same and 0 <= gap <= 1.5 * high)


def _is_ruler(piece: NDArray[np.bool_], shape: tuple[int, ...]) -> bool:
    """Whether a low and wide piece is broken into ticks along one of its rows."""
    high, wide = piece.shape
    if high < 2 or high > 0.06 * shape[0] or wide < 0.1 * shape[1]:
        return False
    starts = np.diff(piece.astype(np.int8), axis=1, prepend=0) == 1
    return bool(starts.sum(axis=1).max() >= MIN_TICKS)


def has_colour(pixels: FloatArray, white: float) -> bool:
    """Whether some of a picture (H, W, 3) is in colour; `white` is the full range of its values."""
    red, green, blue = (pixels[..., channel] for channel in range(3))
    differ = np.maximum(np.abs(red - green), np.abs(green - blue)) > MIN_CHROMA * white
    return bool(differ.mean() > MIN_COLOURED_SHARE)
