"""How far a translated scan is from the truth: every figure with an explicit mask and an explicit range.

MAE, PSNR, SSIM and MS-SSIM are those of SynthRAD2023 (Huijben et al. 2024) and SynthRAD2025 as their published code
computes them; in images (H, W) what those do along three axes is done along two.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from ctmr.types import BoolArray, FloatArray

Span = tuple[float, float]
Doubles = NDArray[np.float64]


def dice(result: BoolArray, truth: BoolArray) -> float:
    """Dice coefficient 2 |A and B| / (|A| + |B|), in [0, 1]: 0 if one mask is empty, nan if both are.

    Raises:
        ValueError: If the shapes differ.
    """
    _require_one_shape(result, truth)
    total = int(result.sum()) + int(truth.sum())
    return 2 * int((result & truth).sum()) / total if total else math.nan


def hd95(result: BoolArray, truth: BoolArray, spacing: Sequence[float] | None = None) -> float:
    """95 % Hausdorff distance of the surfaces of two masks, in the unit of `spacing`.

    The larger of two 95th percentiles: of the distances from the surface of one to the nearest point of the other's,
    and back. The surface is made of the mask's pixels that touch others along an axis, or the border of the image.

    Args:
        result: Mask (H, W) or (I, J, K).
        truth: Of the same shape.
        spacing: Size of a pixel along each axis; 1 by default.

    Returns:
        The diagonal of the image if one mask is empty, nan if both are.

    Raises:
        ValueError: If the shapes differ.
    """
    _require_one_shape(result, truth)
    spacing = (1.0,) * result.ndim if spacing is None else spacing
    if not result.any() and not truth.any():
        return math.nan
    if not result.any() or not truth.any():
        return math.hypot(*np.multiply(spacing, result.shape))
    box = scipy.ndimage.find_objects((result | truth).view(np.uint8))[0]
    first, second = _surface(result[box]), _surface(truth[box])
    there = np.percentile(_distances(second, spacing)[first], 95)
    back = np.percentile(_distances(first, spacing)[second], 95)
    return float(max(there, back))


def _require_one_shape(result: BoolArray, truth: BoolArray) -> None:
    if result.shape != truth.shape:
        raise ValueError(f"both masks must have one shape: got {result.shape} and {truth.shape}")


def _distances(mask: BoolArray, spacing: Sequence[float]) -> Doubles:
    """Of each pixel from the nearest one in the mask."""
    return np.asarray(scipy.ndimage.distance_transform_edt(~mask, sampling=spacing))


def _surface(mask: BoolArray) -> BoolArray:
    return np.asarray(mask & ~scipy.ndimage.binary_erosion(mask))


PSNR_CAP = 100.0  # dB
WINDOW = 7  # pixels; the uniform window of SSIM
K1, K2 = 0.01, 0.03  # Wang et al. 2004
# Of the five levels of MS-SSIM (Wang et al. 2003).
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MIN_MS_SSIM_SIDE = 97  # pixels; the fifth level then has as many as a window
MAX_SHIFT = 4  # pixels; the largest shift of `mae_shifted`
PLANES = 16  # of a volume that are looked at to find the shift
BINS = 64  # of each image in `nmi`


def mae(result: FloatArray, truth: FloatArray, mask: BoolArray) -> float:
    """Mean absolute error in the mask, in the images' unit.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    a, b = _inside(result, truth, mask)
    return float(np.abs(a - b).mean())


def mae_shifted(result: FloatArray, truth: FloatArray, mask: BoolArray) -> float:
    """The smallest MAE of the result shifted by up to 4 whole pixels along each of the first two axes.

    It tolerates pairs that do not lie on each other, and is never above `mae`. The mask stays with the truth; a shifted
    result goes on beyond its border as it ends there. The shift of a volume, one for all its slices, is found on at
    most 16 of them along the third axis, evenly spread over the mask; the value returned is that of all.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    unshifted = mae(result, truth, mask)
    padded = np.pad(result, [(MAX_SHIFT, MAX_SHIFT)] * 2 + [(0, 0)] * (mask.ndim - 2), mode="edge")
    some: tuple[slice | NDArray[np.intp], ...] = ()
    if mask.ndim == 3:
        shown = np.flatnonzero(mask.any(axis=(0, 1)))
        some = (slice(None), slice(None), shown[:: math.ceil(len(shown) / PLANES)])
    searched, wanted, where = padded[some], truth[some], mask[some]
    # The result moved by (i - MAX_SHIFT, j - MAX_SHIFT) is what stands at these places of the padded one.
    places = [
        (slice(i, i + mask.shape[0]), slice(j, j + mask.shape[1]))
        for i, j in itertools.product(range(2 * MAX_SHIFT + 1), repeat=2)
    ]
    best = min(places, key=lambda place: mae(searched[place], wanted, where))
    return min(unshifted, mae(padded[best], truth, mask))


def psnr(result: FloatArray, truth: FloatArray, mask: BoolArray, span: Span) -> float:
    """10 log10(R^2 / MSE) with both clipped to `span`, R its width, and the mean squared error in the mask, in dB.

    It is capped at 100 dB (a root mean square error of 1e-5 of the range), so that equal images have a number too.

    Raises:
        ValueError: If the shapes differ, the mask is empty or the span is not one.
    """
    data_range = _width(span)
    a, b = (np.clip(values, *span) for values in _inside(result, truth, mask))
    floor = data_range**2 / 10 ** (PSNR_CAP / 10)
    return float(10 * np.log10(data_range**2 / max(float(np.square(a - b).mean()), floor)))


def ssim(result: FloatArray, truth: FloatArray, mask: BoolArray, span: Span) -> float:
    """Structural similarity (Wang et al. 2004): the mean, in the mask, of the map of a uniform window of 7 pixels.

    Both are clipped to `span`, take its lower end outside the mask, and are shifted so that this is 0.

    Args:
        result: Image (H, W), or volume, whose window is 7x7x7, or 7x7x1 where it has fewer than 7 slices.
        truth: Of the same shape.
        mask: Where the map counts, but for 3 pixels at each border of the image.
        span: Smallest and largest possible value, in the images' unit.

    Returns:
        At most 1; nan if no window about a pixel of the mask fits into the image.

    Raises:
        ValueError: If the shapes differ, the mask is empty or the span is not one.
    """
    a, b = (_prepared(values, mask, span) for values in _same(result, truth, mask))
    similarity = _similarity(a, b, mask, _width(span))
    return float(similarity.mean()) if similarity.size else math.nan


def ms_ssim(result: FloatArray, truth: FloatArray, mask: BoolArray, span: Span) -> float:
    """Structural similarity at five scales (Wang et al. 2003), as the published code of SynthRAD2025 has it.

    The product over the levels of the mean, in the mask, of max(SSIM, 0)^w, weights w .0448 .2856 .3001 .2363 .1333.
    (Wang et al. let luminance count at the last level only; that code counts it at each.) From level to level images
    are averaged over 2 pixels and every second is kept; masks keep every second pixel. An image with fewer than 97
    pixels along an axis of the window is first extended to 97 by its border, and the mask likewise.

    Args:
        result: As for `ssim`.
        truth: Of the same shape.
        mask: As for `ssim`, at each level.
        span: As for `ssim`.

    Returns:
        In [0, 1]; nan if at some level no pixel of the mask is 3 or more from the border.

    Raises:
        ValueError: If the shapes differ, the mask is empty or the span is not one.
    """
    window, product = _window(mask.shape), 1.0
    around = _padding(mask.shape, window)
    pair = [_prepared(x, mask, span) for x in _same(result, truth, mask)]
    a, b = (np.pad(x, around, mode="edge") for x in pair)
    mask = np.pad(mask, around, mode="edge")
    halved = tuple(2 if size > 1 else 1 for size in window)
    every = tuple(slice(None, None, step) for step in halved)
    for weight in LEVEL_WEIGHTS:
        similarity = _similarity(a, b, mask, _width(span))
        if not similarity.size:
            return math.nan
        product *= float((similarity.clip(min=0) ** weight).mean())
        # The window of 2 takes a pixel and the one before it; before the first there are zeros.
        a, b = (scipy.ndimage.uniform_filter(x, halved, mode="constant")[every] for x in (a, b))
        mask = mask[every]
    return product


def mae_z(result: FloatArray, truth: FloatArray, mask: BoolArray) -> float:
    """MAE in the mask after each image is brought to mean 0 and standard deviation 1 there.

    Returns:
        In standard deviations; nan if an image is constant in the mask.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    a, b = _inside(result, truth, mask)
    if not np.ptp(a) or not np.ptp(b):
        return math.nan
    a, b = ((x - x.mean()) / x.std() for x in (a, b))
    return float(np.abs(a - b).mean())


def nmi(result: FloatArray, truth: FloatArray, mask: BoolArray) -> float:
    """Normalised mutual information (H(A) + H(B)) / H(A, B) in the mask (Studholme et al. 1999).

    Each image has 64 bins from its smallest to its largest value in the mask.

    Returns:
        From 1, where neither says anything of the other, to 2; nan if both are constant.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    from skimage.metrics import normalized_mutual_information  # it imports scipy.stats: 1 s

    a, b = _inside(result, truth, mask)
    constant = not np.ptp(a) and not np.ptp(b)
    return math.nan if constant else float(normalized_mutual_information(a, b, bins=BINS))


def _same(result: FloatArray, truth: FloatArray, mask: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Both images, which are of the mask's shape."""
    if not result.shape == truth.shape == mask.shape:
        raise ValueError(
            f"result, truth and mask must have one shape: got {result.shape}, {truth.shape}, {mask.shape}"
        )
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean: got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask must not be empty: got no pixel")
    return result, truth


def _inside(result: FloatArray, truth: FloatArray, mask: BoolArray) -> tuple[Doubles, Doubles]:
    """The values of both in the mask, (n,)."""
    a, b = _same(result, truth, mask)
    return a[mask].astype(np.float64), b[mask].astype(np.float64)


def _width(span: Span) -> float:
    if not span[0] < span[1]:
        raise ValueError(f"span must be (low, high) with low < high: got {span!r}")
    return span[1] - span[0]


def _prepared(array: FloatArray, mask: BoolArray, span: Span) -> Doubles:
    """An image as SSIM takes it: clipped, at the lower end of the span outside the mask, non-negative."""
    return np.where(mask, np.clip(array.astype(np.float64), *span) - span[0], 0.0)


def _padding(shape: tuple[int, ...], window: tuple[int, ...]) -> list[tuple[int, int]]:
    """What an image lacks to have 97 pixels along each axis of the window, before and after."""
    missing = [
        max(0, MIN_MS_SSIM_SIDE - n) if size > 1 else 0
        for n, size in zip(shape, window, strict=True)
    ]
    return [(n // 2, n - n // 2) for n in missing]


def _window(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of SSIM: 7 along each axis, but 1 along the shortest of a volume with fewer than 7 slices."""
    window = [WINDOW] * len(shape)
    if len(shape) == 3 and min(shape) < WINDOW:
        window[int(np.argmin(shape))] = 1
    return tuple(window)


def _similarity(a: Doubles, b: Doubles, mask: BoolArray, data_range: float) -> Doubles:
    """SSIM at the mask's pixels whose windows lie in the image, (n,)."""
    # Ours: scikit-image's map gives the same to 8e-16, but takes 3 times the memory of a volume and 1.7 times the time.
    window = _window(a.shape)
    margin = [size // 2 for size in window]
    inner = np.zeros_like(mask)
    fits = tuple(slice(m, n - m) for m, n in zip(margin, mask.shape, strict=True))
    inner[fits] = mask[fits]
    if not inner.any():
        return np.empty(0)
    box = scipy.ndimage.find_objects(inner.view(np.uint8))[0]
    box = tuple(slice(s.start - m, s.stop + m) for s, m in zip(box, margin, strict=True))
    a, b, inner = a[box], b[box], inner[box]

    def mean(x: Doubles) -> Doubles:
        means: Doubles = scipy.ndimage.uniform_filter(x, window)[inner]
        return means

    n = math.prod(window)
    mean_a, mean_b = mean(a), mean(b)
    # Variances of samples, as in scikit-image: n - 1.
    variances = (mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2) * (n / (n - 1))
    covariance = (mean(a * b) - mean_a * mean_b) * (n / (n - 1))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    similarity: Doubles = luminance * (2 * covariance + c2) / (variances + c2)
    return similarity
