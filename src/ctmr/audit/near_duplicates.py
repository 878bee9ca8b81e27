"""Which pictures show the same: a perceptual hash to find candidates, then a comparison of their pixels.

Both look at the head only, by the place and size of its outline, so that a copy with another margin or resolution is
found; both look at where grey rises and falls, so that a copy with another brightness, contrast or gamma is found; and
both are taken of the four mirror images, so that a mirrored copy is found.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.imaging.head import depth_within
from ctmr.imaging.order import ordered, percentile
from ctmr.types import BoolArray, FloatArray, Matrix

SIDE = 64  # pixels of the crop that is compared
CROP_DEVIATIONS = 2.0  # standard deviations of the outline from its centre to the edge of the crop
MIN_DEPTH_SHARE = 0.3  # of the way from rim to middle: what lies deeper counts, for the rims of all heads are alike
HASH_SIDE = 16  # a side of the hash: 2 x 16 x 16 bits
MAX_HASH_BITS = 100  # of 512 bits that differ; pictures of different heads differ in about 200
MIN_LIKENESS = 0.82  # likeness from which two pictures show the same; docs/project/results.md says how it was chosen
MIN_LIKENESS_TO_SHIFT = 0.5  # likeness from which a small shift is tried
MAX_SHIFT = 2  # pixels of the crop by which one may be shifted against the other
BLOCK = 1024  # pictures compared at a time

MIRRORS = ("", "mirrored", "upside down", "turned by 180 degrees")


class Fingerprint(NamedTuple):
    """What is compared of one picture."""

    bits: NDArray[np.int8]
    """(4, 512), -1 or 1: for each mirror image, whether grey rises to the right and downwards."""
    detail: NDArray[np.float16]
    """(64, 64), norm 1, 0 but well inside the head: grey less its neighbourhood, over the contrast there."""


class Copy(NamedTuple):
    """Two pictures that show the same."""

    first: int
    second: int
    likeness: float
    """Correlation of their details, at most 1."""
    mirror: str
    """How the second is turned against the first, one of `MIRRORS`."""


def fingerprint(picture: FloatArray, head: BoolArray) -> Fingerprint:
    """The fingerprint of a picture (H, W) with the head in it.

    Raises:
        ValueError: If the mask is empty.
    """
    if not head.any():
        raise ValueError("head must not be empty: got no pixel")
    rows, columns = (_along(head.sum(axis=other)) for other in (1, 0))
    blur = [0.4 * max(0.0, float(np.ptp(places)) / SIDE - 1) for places in (rows, columns)]
    both = np.stack([picture, head]).astype(np.float32)
    crop, inside = _sampled(_blurred(both, *blur), rows, columns)
    depth = depth_within(inside > 0.5)
    detail = _detail(crop, depth > MIN_DEPTH_SHARE * depth.max())
    return Fingerprint(_rises(_cells(crop)), detail.astype(np.float16))


def _blurred(images: FloatArray, down: float, across: float) -> FloatArray:
    """As `scipy.ndimage.gaussian_filter` by two standard deviations, which spends a third of its time on the weights."""
    for axis, sigma in ((-2, down), (-1, across)):
        if sigma > 0:
            images = scipy.ndimage.correlate1d(images, _weights(sigma), axis)
    return images


@lru_cache(64)
def _weights(sigma: float) -> Matrix:
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.square(np.arange(-reach, reach + 1)))
    return np.asarray(weights / weights.sum())


def _along(counts: NDArray[np.int64]) -> Matrix:
    """Where the crop lies along a side, (64,), round the centre of the outline, its size by the outline's spread.

    Args:
        counts: (H,) or (W,) of pixels of the head.
    """
    at = np.arange(len(counts))
    centre = np.average(at, weights=counts)
    spread = np.sqrt(np.average(np.square(at - centre), weights=counts))
    return np.asarray(centre + np.linspace(-1, 1, SIDE) * max(CROP_DEVIATIONS * spread, 1.0))


def _sampled(images: FloatArray, rows: Matrix, columns: Matrix) -> FloatArray:
    """(..., H, W) at the crossings of some rows and columns, interpolated; beyond the edge it goes on as it ends there."""
    return _between(_between(images, rows, -2), columns, -1).astype(np.float32)


def _between(images: FloatArray, places: Matrix, axis: int) -> FloatArray:
    last = images.shape[axis] - 1
    below = places.clip(0, last).astype(np.int64)
    part = (places.clip(0, last) - below).reshape(-1, *[1] * (-1 - axis))
    low, high = images.take(below, axis), images.take(np.minimum(below + 1, last), axis)
    return np.asarray(low + (high - low) * part)


def _cells(crop: FloatArray) -> FloatArray:
    """(17, 17) from a little inside the edge of the crop on."""
    at = np.linspace(4, SIDE - 5, HASH_SIDE + 1)
    return _sampled(_blurred(crop, 1.5, 1.5), at, at)


def _rises(cells: FloatArray) -> NDArray[np.int8]:
    """(4, 512), for each mirror image: 1 where the next cell is brighter, else -1."""
    turned = np.stack(_mirror_images(cells))
    right = np.diff(turned, axis=2)[:, :HASH_SIDE].reshape(len(MIRRORS), -1)
    down = np.diff(turned, axis=1)[:, :, :HASH_SIDE].reshape(len(MIRRORS), -1)
    return np.where(np.concatenate([right, down], axis=1) > 0, 1, -1).astype(np.int8)


def _detail(crop: FloatArray, inside: BoolArray) -> FloatArray:
    smooth = _blurred(crop, 0.8, 0.8)
    detail = smooth - _blurred(smooth, 3.0, 3.0)
    contrast = np.sqrt(_blurred(np.square(detail), 3.0, 3.0))
    detail = detail / (
        contrast + np.float32(0.02) * np.float32(percentile(ordered(smooth), 99)) + 1e-6
    )
    detail = np.where(inside, detail - detail[inside].mean(), 0) if inside.any() else 0 * detail
    return np.asarray(detail / max(float(np.linalg.norm(detail)), 1e-9), np.float32)


def _mirror_images(image: FloatArray) -> tuple[FloatArray, ...]:
    """In the order of `MIRRORS`."""
    return image, image[..., ::-1], image[..., ::-1, :], image[..., ::-1, ::-1]


def find_copies(prints: Sequence[Fingerprint]) -> list[Copy]:
    """All pairs of pictures that show the same, each once and in its best mirror image, first < second."""
    if not prints:
        return []
    bits = np.stack([each.bits for each in prints])  # (N, 4, 512)
    details = np.stack([each.detail for each in prints])  # (N, 64, 64)
    straight = bits[:, 0].astype(np.float32)
    best: dict[tuple[int, int], Copy] = {}
    for turn, mirror in enumerate(MIRRORS):
        turned = bits[:, turn].astype(np.float32)
        for start in range(0, len(prints), BLOCK):
            # 512 - 2 x bits that differ; what comes before a block was compared with it there.
            agree = straight[start : start + BLOCK] @ turned[start:].T
            pairs = np.argwhere(agree >= bits.shape[2] - 2 * MAX_HASH_BITS)
            pairs += start
            for copy in _compared(details, pairs[pairs[:, 0] < pairs[:, 1]], mirror):
                known = best.get(copy[:2])
                if known is None or known.likeness < copy.likeness:
                    best[copy[:2]] = copy
    return [best[pair] for pair in sorted(best)]


def _compared(
    details: NDArray[np.float16], pairs: NDArray[np.int64], mirror: str
) -> Iterator[Copy]:
    """Those of the pairs that are alike at some small shift."""
    for start in range(0, len(pairs), BLOCK):
        part = pairs[start : start + BLOCK]
        first = details[part[:, 0]].astype(np.float32)
        second = _mirror_images(details[part[:, 1]].astype(np.float32))[MIRRORS.index(mirror)]
        likeness = np.einsum("nij,nij->n", first, second)
        for n in np.flatnonzero((likeness > MIN_LIKENESS_TO_SHIFT) & (likeness < MIN_LIKENESS)):
            likeness[n] = _shifted(first[n], second[n])
        for n in np.flatnonzero(likeness >= MIN_LIKENESS):
            yield Copy(int(part[n, 0]), int(part[n, 1]), float(likeness[n]), mirror)


def _shifted(first: FloatArray, second: FloatArray) -> float:
    """The likeness at the best shift."""
    spectrum = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    shifted = np.roll(np.fft.irfft2(spectrum, first.shape), (MAX_SHIFT, MAX_SHIFT), (0, 1))
    return float(shifted[: 2 * MAX_SHIFT + 1, : 2 * MAX_SHIFT + 1].max())
