"""Is an image or a volume no scan but what a program made of one: a mask, a label map, a map of probabilities."""

from typing import Literal

import numpy as np

from ctmr.errors import DataError
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import Volume
from ctmr.types import FloatArray

MapKind = Literal["mask", "label map", "probability map"]

MAX_LABELS = 2048  # FreeSurfer's tables have about a thousand in use
SAME_SHARE = 0.6  # of neighbours in the foreground: those of a label map are equal, those of a scan hardly ever
# A map of probabilities is mostly sure: so much of what is not 0 lies within a tenth of either end, and so much at the top,
# where a scan has next to nothing.
SURE, SURE_SHARE, TOP_SHARE = 0.1, 0.4, 0.15
# Of the highest value: what smoothing and resampling leave of 0 in a map of probabilities.
ZERO = 1e-3
MAX_VOXELS = 4_000_000  # that are looked at


class NotAScan(DataError):
    """A mask, a label map or a map of probabilities in the place of a scan."""


def require_scan(scan: Scan) -> None:
    """Refuse what is no scan.

    Raises:
        NotAScan: If it is a map of some sort; an image only if it is a mask.
    """
    kind = map_kind(scan.array) if isinstance(scan, Volume) else _image_kind(scan)
    if kind is not None:
        raise NotAScan(f"expected a scan: found a {kind}", fix="leave it out, or give --anyway")


def _image_kind(image: Image) -> MapKind | None:
    """A mask if an image has two values, the lower of which is black."""
    if image.unit == "HU" or image.array.ndim != 2:
        return None
    low, high = float(image.array.min()), float(image.array.max())
    two = low == 0 < high and bool(((image.array == low) | (image.array == high)).all())
    return "mask" if two else None


def map_kind(array: FloatArray) -> MapKind | None:
    """What sort of map a volume is; None if it may be a scan.

    Args:
        array: (I, J, K) values as the file has them.
    """
    step = max(1, round((array.size / MAX_VOXELS) ** (1 / 3)))
    some = array[::step, ::step]  # K stays: neighbours along it are compared
    low, high = float(some.min()), float(some.max())
    if low == high or low < -ZERO * high:
        return None
    neighbours, following = some[:, :, :-1], some[:, :, 1:]
    foreground = (neighbours > 0) | (following > 0)
    if not foreground.any():
        return None
    equal = float((neighbours == following)[foreground].mean())
    if equal >= SAME_SHARE and np.array_equal(some, np.rint(some)):
        labels = np.unique(some).size
        if labels <= 2:
            return "mask"
        return "label map" if labels <= MAX_LABELS else None
    return "probability map" if _is_probability(some, low, high) else None


def _is_probability(some: FloatArray, low: float, high: float) -> bool:
    """Whether values from 0 to 1 (or to 100 or 255, as some programs write them) are mostly at either end."""
    if abs(low) > ZERO * high or not any(
        abs(high - end) <= 0.02 * end for end in (1.0, 100.0, 255.0)
    ):
        return False
    share = some[some > ZERO * high].astype(np.float32, copy=False) / high
    top = float((share > 1 - SURE).mean())
    return top >= TOP_SHARE and top + float((share < SURE).mean()) >= SURE_SHARE
