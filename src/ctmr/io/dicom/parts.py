"""The volumes of one series: echoes, phases, b-values or kinds of image that share a SeriesInstanceUID (0020,000E)."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ctmr.io.dicom.header import SAME_PLACE_MM, SliceFile

# What tells volumes apart, the first before the others: echo, phase, pass of the scanner, diffusion, kind of image.
TELLING = (
    *("EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "AcquisitionNumber"),
    *("DiffusionBValue", "ImageType"),
)
MIN_SLICES = 3
_EVEN = (0.01, 0.05)  # share of the way between slices, and mm, by which it may differ


def parts_of(images: Sequence[SliceFile]) -> list[list[SliceFile]]:
    """The volumes that a series holds, in the order of what tells them apart; the series itself if it is one.

    A series is taken apart only if slices lie at one place, by as few values as make each part whole: one slice at each
    place of the series, evenly spaced.
    """
    whole = [list(images)]
    places = _places(images)
    if places is None or len(np.unique(places)) == len(images):
        return whole
    varying = [keyword for keyword in TELLING if len({_value(i, keyword) for i in images}) > 1]
    for count in range(1, len(varying) + 1):
        for keywords in combinations(varying, count):
            parts = _taken_apart(images, keywords)
            if all(_is_whole(part, places) for part in parts):
                return parts
    return whole


def told_apart(part: Sequence[SliceFile], others: Sequence[Sequence[SliceFile]]) -> str:
    """What tells a part from others of its series, as `EchoTime 80`; no text of a header is in it but numbers."""
    for keyword in TELLING:
        value = _value(part[0], keyword)
        if len({value, *(_value(other[0], keyword) for other in others)}) > 1:
            return f"{keyword} {value:g}" if isinstance(value, float) else keyword
    return ""


def _taken_apart(images: Sequence[SliceFile], keywords: Sequence[str]) -> list[list[SliceFile]]:
    parts: dict[tuple[str | float, ...], list[SliceFile]] = {}
    for image in images:
        parts.setdefault(tuple(_value(image, keyword) for keyword in keywords), []).append(image)
    order = sorted(parts, key=lambda key: [(isinstance(v, str), v) for v in key])
    return [parts[key] for key in order]


def _value(image: SliceFile, keyword: str) -> str | float:
    """A value as a number, or as a text where it is none."""
    value = image.values.get(keyword, "")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)


@np.errstate(all="ignore")
def _places(images: Sequence[SliceFile]) -> np.ndarray | None:
    """The place of each along the normal of the first, by number from the lowest; None where the headers do not tell it."""
    try:
        normal = images[0].normal
        along = np.array([image.along(normal) for image in images])
    except (KeyError, TypeError, ValueError):
        return None
    if not np.isfinite(along).all():
        return None
    order = np.argsort(along, kind="stable")
    steps = np.concatenate([[0], np.diff(along[order]) > SAME_PLACE_MM])
    numbers = np.empty(len(images), np.int64)
    numbers[order] = np.cumsum(steps)
    return numbers


def _is_whole(part: Sequence[SliceFile], places: np.ndarray) -> bool:
    """Whether there is one slice at each place of the series, evenly spaced."""
    if not MIN_SLICES <= len(part) == len(np.unique(places)):
        return False
    gaps = np.diff(np.sort([image.along(part[0].normal) for image in part]))
    usual = float(np.median(gaps))
    share, mm = _EVEN
    return bool(gaps.min() > SAME_PLACE_MM and np.abs(gaps - usual).max() <= max(share * usual, mm))
