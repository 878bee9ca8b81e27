"""Does a lesion survive a translation, and is one invented: two tests on images whose truth is known."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.synthetic.lesions import LESIONS
from ctmr.synthetic.tissues import LABELS
from ctmr.types import BoolArray, FloatArray, Spacing

EDGE_MM = 10.0  # nearer to the dura, a skull drawn too thick or too thin is what one would measure
SOFT_HU = (-50.0, 100.0)  # a slice has bone or air in part of its thickness beyond
CHANGED_HU = 1.0  # by a lesion in part of its thickness
SURROUND_MM = (2.0, 12.0)  # from a lesion
ASIDE_MM = 5.0  # nearer to a lesion, nothing counts as invented
MIN_LESION_MM2, MIN_SURROUND_MM2 = 10.0, 100.0
MIN_CONTRAST = 1.0  # contrast to noise of a lesion that the truth shows
MIN_KEPT_CONTRAST = 0.5  # of it, in a result in which the lesion survives
DEVIATIONS, BLOB_MM2 = 3.0, 20.0

TISSUE = ("grey matter", "white matter", "deep grey", "brain stem")

WHAT = (
    f"in the brain at least {EDGE_MM:g} mm from the dura; survives: contrast to noise against the brain around has the"
    f" truth's sign and at least {MIN_KEPT_CONTRAST:g} of its size, of the lesions that the truth shows; invented: a blob of at least"
    f" {BLOB_MM2:g} mm2 beyond {DEVIATIONS:g} SD of result less truth of heads without lesions, away from lesions; detectable:"
    " lesions that would count as invented, had the model drawn them as the truth has them; shares of n with Wilson's"
    " 95 % intervals (ctmr help lesions)"
)


class Zones(NamedTuple):
    """Where the two tests look in one slice, masks (H, W)."""

    brain: BoolArray
    """Inside the dura, away from it."""
    lesion: BoolArray
    """The lesion, as far as it lies in `brain`."""
    surround: BoolArray
    """Brain tissue round the lesion, off all lesions."""
    elsewhere: BoolArray
    """`brain` away from all lesions."""


class Spread(NamedTuple):
    """Of result less truth over the brains of healthy heads, in the images' unit."""

    mean: float
    sd: float


def zones(
    labels: NDArray[np.uint8],
    kind: str,
    spacing_mm: Spacing,
    *,
    ct: FloatArray,
    healthy_ct: FloatArray,
) -> Zones:
    """Where to look for the lesion of a kind in a slice.

    Labels are those of the middle of the slice; what bone and lesions do to the rest of its thickness, CT tells.

    Args:
        labels: Tissue of each pixel (H, W), an index into `LABELS`.
        kind: One of `LESIONS`; all that the slice has of it is one lesion.
        spacing_mm: Pixel size along both axes.
        ct: CT of the slice (H, W) in HU.
        healthy_ct: The same without lesions, to the last bit of the noise.
    """

    def are(*names: str) -> BoolArray:
        return np.isin(labels, [LABELS.index(name) for name in names])

    low, high = SOFT_HU
    # All labels from the dura on are of what lies inside it.
    outside = (labels < LABELS.index("dura")) | (healthy_ct < low) | (healthy_ct > high)
    brain = _mm_from(outside, spacing_mm) >= EDGE_MM
    lesion = are(kind)
    with_oedema = lesion | are("oedema") if kind == "tumour" else lesion
    sick = are(*LESIONS, "oedema") | (np.abs(ct - healthy_ct) > CHANGED_HU)
    away, off = _mm_from(with_oedema, spacing_mm), _mm_from(sick, spacing_mm)
    near, far = SURROUND_MM
    surround = (off > near) & (away <= far) & are(*TISSUE)
    return Zones(brain, lesion & brain, surround & brain, (off > ASIDE_MM) & brain)


def contrast_to_noise(image: FloatArray, at: Zones, min_noise: float = 0.0) -> float:
    """(mean of the lesion - mean of its surround) / standard deviation of the surround.

    Args:
        image: Slice (H, W) in any unit.
        at: Where lesion and surround are, neither empty.
        min_noise: What the deviation counts as where it is smaller, in the image's unit.

    Returns:
        Above 0 where the lesion is brighter, infinite where there is contrast without any noise.
    """
    inside, around = image[at.lesion].astype(np.float64), image[at.surround].astype(np.float64)
    contrast = float(inside.mean() - around.mean())
    noise = max(float(around.std()), min_noise)
    if noise == 0:
        return math.copysign(math.inf, contrast) if contrast else 0.0
    return contrast / noise


def survives(result: FloatArray, truth: FloatArray, at: Zones) -> bool:
    """Whether a result (H, W) shows the lesion at least half as well as the truth does, with the same sign."""
    expected = contrast_to_noise(truth, at)
    found = contrast_to_noise(result, at, min_noise=float(truth[at.surround].std()))
    return (found > 0) == (expected > 0) and abs(found) >= MIN_KEPT_CONTRAST * abs(expected)


def can_tell(truth: FloatArray, healthy: FloatArray, at: Zones, pixel_mm2: float) -> bool:
    """Whether the truth shows the lesion, and what is there without it does not pass for it.

    Args:
        truth: Slice (H, W) with the lesion.
        healthy: The truth of the same slice without it.
        at: Where lesion and surround are.
        pixel_mm2: Area of a pixel.
    """
    if (
        at.lesion.sum() * pixel_mm2 < MIN_LESION_MM2
        or at.surround.sum() * pixel_mm2 < MIN_SURROUND_MM2
    ):
        return False
    return abs(contrast_to_noise(truth, at)) >= MIN_CONTRAST and not survives(healthy, truth, at)


def spread(errors: Iterable[FloatArray]) -> Spread:
    """Mean and standard deviation of result less truth, pooled over the pixels (n,) of all healthy brains."""
    values = np.concatenate(list(errors)).astype(np.float64)
    return Spread(float(values.mean()), float(values.std()))


def invented(error: FloatArray, where: BoolArray, healthy: Spread, pixel_mm2: float) -> bool:
    """Whether result less truth (H, W) has a blob in the mask beyond what healthy heads have.

    Args:
        error: In the unit of `healthy`.
        where: What is looked at.
        healthy: Of the same model's results for healthy heads.
        pixel_mm2: Area of a pixel.
    """
    limit = DEVIATIONS * healthy.sd
    for apart in (error - healthy.mean, healthy.mean - error):
        parts, count = scipy.ndimage.label((apart > limit) & where, np.ones((3, 3)))
        if count and np.bincount(parts.ravel())[1:].max() * pixel_mm2 >= BLOB_MM2:
            return True
    return False


def _mm_from(mask: BoolArray, spacing_mm: Spacing) -> NDArray[np.float64]:
    """Distance of each pixel (H, W) from the mask; infinite if that is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    distance: NDArray[np.float64] = scipy.ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return distance
