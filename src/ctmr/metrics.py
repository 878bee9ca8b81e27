"""How far a translated image is from the truth: every figure with an explicit mask and an explicit range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from ctmr.intensity import BoolArray, FloatArray

SSIM_WINDOW = 7  # pixels; the uniform window that scikit-image takes by default
PSNR_CAP = 100.0  # dB
RADIUS = 0.03  # of the disk of `head_mask`, in parts of the short side: 8 pixels of 256
RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """A figure over patients.

    Attributes:
        mean: Mean over patients.
        sd: Standard deviation over patients (n - 1), 0 for one patient.
        ci95: 95 % interval of the mean, percentile bootstrap over patients.
    """

    mean: float
    sd: float
    ci95: tuple[float, float]


def mae(result: FloatArray, truth: FloatArray, mask: BoolArray) -> float:
    """Mean absolute error in the mask, in the images' unit.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    return float(np.abs(_error_in(result, truth, mask)).mean())


def psnr(result: FloatArray, truth: FloatArray, mask: BoolArray, data_range: float) -> float:
    """10 log10(data_range^2 / MSE) with the mean squared error in the mask, in dB.

    It is capped at 100 dB (a root mean square error of 1e-5 of the range), so that equal images have a number too.

    Raises:
        ValueError: If the shapes differ, the mask is empty or the range is not positive.
    """
    _require_range(data_range)
    mse = float(np.square(_error_in(result, truth, mask)).mean())
    floor = data_range**2 / 10 ** (PSNR_CAP / 10)
    return float(10 * np.log10(data_range**2 / max(mse, floor)))


def ssim(result: FloatArray, truth: FloatArray, mask: BoolArray, data_range: float) -> float:
    """Structural similarity (Wang et al. 2004): the mean, in the mask, of the map of a 7x7 uniform window.

    Args:
        result: Image (H, W), at least 7x7, or volume, whose window is 7x7x7, or 7x7x1 where it has fewer than 7 slices.
        truth: Of the same shape.
        mask: Where the map counts; windows at its rim see what lies outside.
        data_range: Largest minus smallest possible value, in the images' unit.

    Raises:
        ValueError: If the shapes differ, the mask is empty, the range is not positive or the image too small.
    """
    _require_range(data_range)
    _error_in(result, truth, mask)
    similarity = _similarity(result.astype(np.float64), truth.astype(np.float64), data_range)
    return float(similarity[mask].mean())


def _similarity(
    result: NDArray[np.float64], truth: NDArray[np.float64], data_range: float
) -> NDArray[np.float64]:
    """The map of structural similarity; a thin volume is compared slice by slice along its shortest axis."""
    if result.ndim == 3 and min(result.shape) < SSIM_WINDOW:
        thin = int(np.argmin(result.shape))
        slices = [
            _similarity(a, b, data_range)
            for a, b in zip(np.moveaxis(result, thin, 0), np.moveaxis(truth, thin, 0), strict=True)
        ]
        return np.stack(slices, axis=thin)
    _, similarity = structural_similarity(
        result, truth, win_size=SSIM_WINDOW, data_range=data_range, full=True
    )
    return np.asarray(similarity)


def head_mask(
    image: FloatArray,
    threshold: float | None,
    *,
    radius: float | None = None,
    spacing: Sequence[float] | None = None,
) -> BoolArray:
    """Where the head is: one filled region, with the skull, the sinuses and the ventricles.

    Pixels above the threshold are closed by a disk of 3 % of the short side, which joins scalp and brain over a skull
    that is dark in MR and shuts sinuses that open outwards; holes are filled; an opening by the same disk cuts off a
    head rest; the largest component is kept.

    Args:
        image: Slice (H, W) or volume, in HU or grey values.
        threshold: Lowest value of tissue (about -300 for HU); None takes Otsu's (1979).
        radius: Of the disk or ball, in the unit of `spacing`.
        spacing: Size of a pixel along each axis; 1 by default.

    Returns:
        Mask of the same shape; all False where nothing is above the threshold or the image is constant.
    """
    if threshold is None:
        if image.min() == image.max():
            return np.zeros(image.shape, dtype=np.bool_)
        threshold = float(threshold_otsu(image))
    tissue = image > threshold
    if not tissue.any():
        return tissue
    if radius is None:
        radius = max(1, round(RADIUS * min(image.shape)))
    spacing = (1.0,) * image.ndim if spacing is None else spacing
    filled = ndimage.binary_fill_holes(_closed(tissue, radius, spacing))
    opened = ~_closed(~filled, radius, spacing)
    labels, count = ndimage.label(opened if opened.any() else filled)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return np.asarray(labels == 1 + sizes.argmax())


def summarise(values_per_patient: Sequence[float], seed: int = 0) -> Summary:
    """Mean, standard deviation and 95 % interval over patients, one value each.

    Raises:
        ValueError: If there is no value, or one is not finite.
    """
    values = np.asarray(values_per_patient, dtype=np.float64)  # (patients,)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"expected finite values, one for each patient: got {values_per_patient!r}"
        )
    mean = float(values.mean())
    if values.size == 1:
        return Summary(mean, 0.0, (mean, mean))
    draws = np.random.default_rng(seed).integers(values.size, size=(RESAMPLES, values.size))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return Summary(mean, float(values.std(ddof=1)), (float(low), float(high)))


def _error_in(result: FloatArray, truth: FloatArray, mask: BoolArray) -> NDArray[np.float64]:
    """result - truth at the mask's pixels."""
    if not result.shape == truth.shape == mask.shape:
        raise ValueError(
            f"result, truth and mask must have one shape: got {result.shape}, {truth.shape}, {mask.shape}"
        )
    if mask.dtype != np.bool_:
        raise ValueError(f"mask must be boolean: got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask must not be empty: got no pixel")
    return result[mask].astype(np.float64) - truth[mask].astype(np.float64)


def _require_range(data_range: float) -> None:
    if not data_range > 0:
        raise ValueError(f"data_range must be positive: got {data_range!r}")


def _closed(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """The closing of a mask by a ball; the image goes on beyond its border as it ends there."""
    around = [math.ceil(radius / side) + 1 for side in spacing]
    padded = np.pad(mask, [(pixels, pixels) for pixels in around], mode="edge")
    closed = ~_grown(~_grown(padded, radius, spacing), radius, spacing)
    return closed[tuple(slice(pixels, -pixels) for pixels in around)]


def _grown(mask: BoolArray, radius: float, spacing: Sequence[float]) -> BoolArray:
    """The mask and all within the radius of it."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius)
