"""What a picture of a head looks like, in named numbers that need no header: rim, interior, edges, symmetry, outline.

A picture is a slice (H, W) in grey values from black to white. It is looked at with at most 128 pixels a side, so that
none of the numbers depends much on its resolution.
"""

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image as Pillow

from ctmr.imaging.head import (
    Background,
    box_around,
    depth_within,
    find_background,
    largest_region,
)
from ctmr.imaging.image import Image, luma
from ctmr.imaging.order import median, ordered, percentile, percentiles
from ctmr.imaging.volume import Volume, axial_slices
from ctmr.types import BoolArray, Encoding, FloatArray

SIDE = 128
OUTLINE_RADIUS = (
    3.0  # pixels; gaps up to twice this are closed in the outline, and what is thinner is cut off
)
MIN_HEAD_SHARE = 0.02  # of the picture; less is no head
SHELLS = 20  # from the rim to the middle


class Descriptors(NamedTuple):
    """Grey values are parts of white less air: 0 is the background, 1 the 99.5 percentile of the head."""

    rim: float
    """Median over the rim of the brightest value near it: bone is white in CT."""
    rim_low: float
    """15th percentile of the same."""
    rim_spread: float
    """Standard deviation of the same: bone is white all around."""
    rim_over: float
    """`rim` less the median of the interior."""
    skin: float
    """Median of the outermost shell."""
    beneath: float
    """Median of the third shell less the first: bone lies under the skin, bright in CT and dark in MR."""
    dip: float
    """Darkest shell behind the brightest of the outer ones, less the median of the interior."""
    full: float
    """Share of the head within 1.5 % of its largest value."""
    near: float
    """Share of the head above 0.9."""
    black: float
    """Share of the interior below 0.1."""
    middle: float
    """Interquartile range of the interior."""
    spread: float
    """5th to 95th percentile of the interior."""
    level: float
    """Median of the interior."""
    edges: float
    """Mean gradient in the interior, per pixel."""
    fine: float
    """Mean difference from the mean of 3 x 3 neighbours, in the interior."""
    symmetry: float
    """Correlation of the head with its mirror image."""
    solid: float
    """Share of the outline's bounding box that it fills."""
    tall: float
    """Height of that box over its width."""
    cut_below: float
    """Share of the outline's largest width at which the lower edge of the picture cuts it."""
    cut_above: float
    """The same at the upper edge."""
    lopsided: float
    """Share of the outline that its mirror image does not cover."""
    tapered: float
    """Width of the lowest eighth of the outline over its largest width."""


def shrunk(grey: FloatArray, side: int = SIDE) -> FloatArray:
    """(H, W) -> the same with its long side of `side` pixels, or as it is if that is smaller."""
    height, width = grey.shape
    zoom = side / max(height, width)
    if zoom >= 1:
        return grey
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    return np.asarray(Pillow.fromarray(grey).resize(size, Pillow.Resampling.BOX))


def square_slice(upright: Volume, k: int) -> FloatArray:
    """Axial slice k of a canonical volume, (rows, columns), with square pixels of its finer side."""
    across, down, _ = upright.spacing_mm
    image = axial_slices(upright.array[:, :, k : k + 1])[0]
    finer = min(across, down)
    size = round(image.shape[1] * across / finer), round(image.shape[0] * down / finer)
    grey = Pillow.fromarray(image.astype(np.float32, copy=False))
    return np.asarray(grey.resize(size, Pillow.Resampling.BILINEAR))


class Outlined(NamedTuple):
    """A small picture, see `shrunk`, and where the head is in it."""

    grey: FloatArray
    """(H, W)."""
    head: BoolArray
    """(H, W); all False if there is none."""
    background: Background


def outlined(picture: FloatArray) -> Outlined:
    """Find the head in a small picture (H, W)."""
    background = find_background(picture, hu=False)
    head = largest_region(background.tissue(picture), OUTLINE_RADIUS)
    if head.mean() < MIN_HEAD_SHARE:
        head = np.zeros_like(head)
    return Outlined(picture, head, background)


def background_of(picture: FloatArray) -> Background:
    """The background of a picture (H, W) of any size: of a large one some pixels tell it."""
    step = max(1, min(picture.shape) // (2 * SIDE))
    return find_background(picture[::step, ::step], hu=False)


def describe(picture: Outlined) -> Descriptors:
    """The descriptors of a small picture.

    Raises:
        ValueError: If no head is in it.
    """
    if not picture.head.any():
        raise ValueError("head must not be empty: got no pixel")
    values = ordered(picture.grey[picture.head])
    air = min(picture.background.level, median(values))
    white = percentile(values, 99.5)
    # What follows looks at the head and one pixel around it.
    box = box_around(picture.head)
    head = picture.head[box]
    grey = np.clip((picture.grey[box] - air) / max(white - air, 1e-6), 0, 1.2).astype(np.float32)
    depth = depth_within(np.pad(head, 1))[1:-1, 1:-1]
    depth /= depth.max()
    inner = head & (depth > 0.35)
    outer_values, inner_values = grey[head], ordered(grey[inner])
    shares = {
        "full": float((outer_values >= 0.985 * outer_values.max()).mean()),
        "near": float((outer_values > 0.9).mean()),
        "black": float((inner_values < 0.1).mean()),
    }
    rim = _rim(grey, head, depth, median(inner_values))
    interior = _interior(grey, inner, inner_values)
    tight = _span(head.sum(axis=1)), _span(head.sum(axis=0))
    symmetry, shape = _symmetry(grey[tight]), _shape(picture.head, head[tight])
    return Descriptors(**rim, **shares, **interior, symmetry=symmetry, **shape)


def _rim(
    grey: FloatArray, head: BoolArray, depth: NDArray[np.float64], interior: float
) -> dict[str, float]:
    """`rim` to `dip`."""
    # Pixels to the middle of the head, of which 12 % are looked at for the brightest value.
    radius = float(np.sqrt(head.sum() / np.pi))
    size = max(3, 2 * round(0.06 * radius) + 1)
    brightest = _brightest(np.where(head, grey, 0), size)
    rim = brightest[head & (depth > 0.05) & (depth <= 0.15)]
    if rim.size == 0:
        rim = brightest[head]
    values, shell = grey[head], np.minimum(depth[head] * SHELLS, SHELLS - 1).astype(np.uint8)
    ends = np.cumsum(np.bincount(shell, minlength=12))[:12]
    profile = np.zeros(12)
    for k, part in enumerate(np.split(values[np.argsort(shell, kind="stable")], ends)[:12]):
        profile[k] = median(ordered(part)) if part.size else profile[max(0, k - 1)]
    bright = int(profile[:6].argmax())
    row = ordered(rim)
    typical = median(row)
    return {
        "rim": typical,
        "rim_low": percentile(row, 15),
        "rim_spread": float(rim.std()),
        "rim_over": typical - interior,
        "skin": float(profile[0]),
        "beneath": float(profile[2] - profile[0]),
        "dip": float(profile[bright:].min()) - interior,
    }


def _brightest(grey: FloatArray, size: int) -> FloatArray:
    """The highest value in a square about each pixel, in a third of the time of `scipy.ndimage.maximum_filter`."""
    around: FloatArray = np.pad(grey, size // 2)
    for _ in range(2):  # down, then across
        seen = 1
        while seen < size:
            more = min(seen, size - seen)
            around = np.maximum(around[:-more], around[more:])
            seen += more
        around = around.T
    return around


def _interior(grey: FloatArray, inner: BoolArray, row: FloatArray) -> dict[str, float]:
    """`middle` to `fine`; `row` are the values there in order."""
    low, first, level, third, high = percentiles(row, (5, 25, 50, 75, 95))
    down, across = np.gradient(grey)
    return {
        "middle": float(third - first),
        "spread": float(high - low),
        "level": float(level),
        "edges": float(np.hypot(down, across)[inner].mean()),
        "fine": float(np.abs(grey - scipy.ndimage.uniform_filter(grey, 3))[inner].mean()),
    }


def _symmetry(box: FloatArray) -> float:
    centred = box - box.mean()
    return float((centred * centred[:, ::-1]).sum() / max(float(np.square(centred).sum()), 1e-9))


def _shape(head: BoolArray, box: BoolArray) -> dict[str, float]:
    """`solid` to `tapered`; `box` is the part of the picture that the head reaches."""
    widths = box.sum(axis=1)
    lowest = widths[-max(1, len(widths) // 8) :]
    across = np.flatnonzero(head.any(axis=0))
    middle = float(np.average(np.arange(head.shape[1]), weights=head.sum(axis=0)))
    mirrored = np.zeros_like(head)
    kept = across[(2 * middle - across >= 0) & (2 * middle - across <= head.shape[1] - 1)]
    mirrored[:, np.rint(2 * middle - kept).astype(int)] = head[:, kept]
    return {
        "solid": float(box.mean()),
        "tall": box.shape[0] / box.shape[1],
        "cut_below": float(head[-1].sum() / widths.max()),
        "cut_above": float(head[0].sum() / widths.max()),
        "lopsided": float((head & ~mirrored).sum() / head.sum()),
        "tapered": float(np.median(lowest) / widths.max()),
    }


def _span(counts: NDArray[np.int64]) -> slice:
    """From the first that is not 0 to the last."""
    (places,) = np.nonzero(counts)
    return slice(int(places[0]), int(places[-1]) + 1)


WINDOW_HU = (-100.0, 300.0)  # window of a CT in HU
# Distance of the 0.5 and 99.5 percentiles; a picture with less is blank.
MIN_CONTRAST: dict[Encoding, float] = {
    "HU": 20.0,
    "8-bit": 6.0,
    "16-bit": 64.0,
    "MR": 1e-6,
    "grey": 1e-6,
}


def descriptors_of(image: Image) -> Descriptors | None:
    """What an image looks like inside its frame; None if nothing like a head is in it."""
    small = _inside_frame(image)
    return describe(small) if small.head.any() else None


def shows_head(image: Image) -> bool:
    """Whether something like a head is in an image."""
    return bool(_inside_frame(image).head.any())


def _inside_frame(image: Image) -> Outlined:
    grey = luma(image.array) if image.array.ndim == 3 else image.array
    inside = grey[inside_frame(grey, background_of(grey))]
    return small_picture(np.ascontiguousarray(inside), image.encoding)


def small_picture(inside: FloatArray, encoding: Encoding) -> Outlined:
    """The picture with few pixels, and where the head is in it; nowhere if it is blank."""
    small = outlined(shrunk(windowed(inside, encoding)))
    if small.background.high - small.background.low < MIN_CONTRAST[encoding]:
        small = small._replace(head=np.zeros_like(small.head))
    return small


def windowed(grey: FloatArray, encoding: Encoding) -> FloatArray:
    """HU through a window for soft tissue; others as they are."""
    return grey.clip(*WINDOW_HU) if encoding == "HU" else grey


FRAME_DEPTH_SHARE = 0.05  # of a side: so far inwards a frame is looked for
# Of the way from air to white: a frame and a letter are at least so bright.
FRAME_SHARE, LETTER_SHARE = 0.2, 0.4
# Of a side: a line of a frame covers so much of it, and the next within it at most half.
MIN_COVERED_SHARE = 0.8

Box = tuple[slice, slice]


def inside_frame(picture: FloatArray, background: Background) -> Box:
    """Rows and columns of a picture (H, W) within any bright lines along its edges."""
    bright = picture > background.brighter_by(FRAME_SHARE)
    top, bottom = _frame(bright), _frame(bright[::-1])
    left, right = _frame(bright.T), _frame(bright.T[::-1])
    height, width = picture.shape
    return slice(top, height - bottom), slice(left, width - right)


def _frame(bright: BoolArray) -> int:
    """How many of the first lines belong to a frame."""
    deep = max(3, round(FRAME_DEPTH_SHARE * len(bright)))
    covered = bright[: deep + 3].mean(axis=1)
    lines = np.flatnonzero(covered[:deep] >= MIN_COVERED_SHARE)
    if lines.size == 0:
        return 0
    inside = int(lines[-1]) + 1
    return inside if covered[inside : inside + 3].min() < 0.5 else 0
