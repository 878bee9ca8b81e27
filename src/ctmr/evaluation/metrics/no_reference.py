"""What a result tells of itself and of its source, without the truth: structure kept, copied, jumping between slices, mirrored.

All images are axial slices (K, H, W) in [-1, 1], an image being one slice, with a mask of the head. Differences are shares of
the whole range: |a - b| / 2, so 0 to 1. None of these figures says that a result is right.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ctmr.cyclegan.mind import NEIGHBOURS, descriptor
from ctmr.evaluation.metrics.full_reference import nmi
from ctmr.types import BoolArray, FloatArray

WINDOW, STEP = (
    16,
    8,
)  # pixels: side of a window of local mutual information, and from one to the next
LEVELS = 8  # of grey, in a window from its darkest to its brightest pixel
# A result is called mirrored if the mirrored one shares more with the source than it does itself by this much of
# normalised mutual information. Heads are nearly symmetric, so that both share almost equally much where details are lost.
MIRROR_MARGIN = 0.01


@dataclass(frozen=True)
class MirrorCheck:
    """Normalised mutual information with the source, 1 to 2, of a result as it lies and of the result mirrored."""

    upright: float
    mirrored: float

    @property
    def looks_mirrored(self) -> bool:
        """Whether left and right of the result are most likely exchanged."""
        return self.mirrored > self.upright + MIRROR_MARGIN


def no_reference_metrics(
    source: FloatArray, result: FloatArray, mask: BoolArray
) -> dict[str, float]:
    """The figures below of one result; those that it is too small or too thin for are left out.

    Raises:
        ValueError: If the shapes differ or the mask is empty.
    """
    figures = {
        "structure_kept": structure_kept(source, result, mask),
        "local_nmi": local_mutual_information(source, result, mask),
        "copy_correlation": copy_correlation(source, result, mask),
        "copy_difference": copy_difference(source, result, mask),
        "slice_jitter": slice_jitter(result, mask),
        "slice_jitter_source": slice_jitter(source, mask),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def structure_kept(source: FloatArray, result: FloatArray, mask: BoolArray) -> float:
    """Correlation of MIND (Heinrich et al. 2012) of source and result in the head, over pixels and its eight channels.

    MIND sees edges whatever their grey values (`structure.descriptor`): 1 for a copy and for a negative, 0 for noise
    and for a flat result. A perfect translation lies between, as some edges show in one modality only.
    """
    _require_alike(source, result, mask)
    sums = np.zeros((5, len(NEIGHBOURS)))  # of a, b, a a, b b, a b, for each channel
    for a, b, inside in zip(source, result, mask, strict=True):  # slice by slice, for its memory
        with torch.inference_mode():
            descriptors = descriptor(
                torch.from_numpy(np.stack([a, b])[:, None])
            ).numpy()  # (2, 8, H, W)
        x, y = descriptors[:, :, inside].astype(np.float64)  # (8, pixels)
        sums += np.stack([s.sum(axis=1) for s in (x, y, x * x, y * y, x * y)])
    a, b, aa, bb, ab = sums / mask.sum()
    spread_a, spread_b = (aa - a * a).sum(), (bb - b * b).sum()
    if min(spread_a, spread_b) < 1e-12:
        return 0.0
    return float((ab - a * b).sum() / np.sqrt(spread_a * spread_b))


def local_mutual_information(
    source: FloatArray, result: FloatArray, mask: BoolArray
) -> float | None:
    """Normalised mutual information (H(a) + H(b)) / H(a, b) of small windows, averaged: 1 to 2, 2 for a copy.

    Windows of 16 x 16 pixels, 8 apart, at least half of which is head; the grey values of each are put on 8 levels
    from its darkest to its brightest pixel (Studholme et al. 1999; local as in Klein et al. 2008). So few pixels share
    something by chance: independent noise has 1.03. None if no window is large enough or shows anything.
    """
    _require_alike(source, result, mask)
    found = [
        _window_information(a, b, inside)
        for a, b, inside in zip(source, result, mask, strict=True)
        if min(inside.shape) >= WINDOW
    ]
    values = np.concatenate(found) if found else np.empty(0)
    return float(values.mean()) if values.size else None


def copy_correlation(source: FloatArray, result: FloatArray, mask: BoolArray) -> float:
    """Correlation of the grey values of source and result in the head, -1 to 1: exactly 1 for a copy, 0 for a flat result."""
    _require_alike(source, result, mask)
    a, b = (image[mask].astype(np.float64) for image in (source, result))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else 0.0


def copy_difference(source: FloatArray, result: FloatArray, mask: BoolArray) -> float:
    """Mean difference of source and result in the head, as a share of the range: exactly 0 for a copy."""
    _require_alike(source, result, mask)
    return float(np.abs(source[mask].astype(np.float64) - result[mask]).mean() / 2)


def slice_jitter(slices: FloatArray, mask: BoolArray) -> float | None:
    """Mean |second difference| from slice to slice, as a share of the range, where all three slices show head.

    Slices are translated one by one, so that neighbours can jump in brightness: a result has more of it than its source
    or a real scan of its kind. None for fewer than three slices.
    """
    _require_alike(slices, slices, mask)
    inside = mask[:-2] & mask[1:-1] & mask[2:]
    if not inside.any():
        return None
    total = 0.0
    for k in range(len(inside)):
        jump = slices[k].astype(np.float64) - 2 * slices[k + 1] + slices[k + 2]
        total += float(np.abs(jump[inside[k]]).sum())
    return total / float(inside.sum()) / 2


def mirror_check(source: FloatArray, result: FloatArray, mask: BoolArray) -> MirrorCheck:
    """Whether a result shares more with its source once its left and right are exchanged (Glen et al. 2020).

    Columns run from the patient's right to the left. Both are compared where the head is in either.
    """
    _require_alike(source, result, mask)
    either = mask | mask[..., ::-1]
    return MirrorCheck(
        upright=nmi(source, result, either), mirrored=nmi(source, result[..., ::-1], either)
    )


def _window_information(a: FloatArray, b: FloatArray, inside: BoolArray) -> NDArray[np.float64]:
    """Normalised mutual information of each window of a slice (H, W) that shows head and is not flat in both."""
    shown = _windows(inside).mean(axis=1) >= 0.5
    codes = [_levels(_windows(image)[shown]) for image in (a, b)]  # (n, pixels)
    count = len(codes[0])
    place = np.arange(count)[:, None] * LEVELS**2 + codes[0] * LEVELS + codes[1]
    joint = np.bincount(place.ravel(), minlength=count * LEVELS**2)
    found = _normalised(joint.reshape(count, LEVELS, LEVELS))
    return found[np.isfinite(found)]


def _windows(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """(H, W) -> (windows, pixels)."""
    windows = sliding_window_view(image, (WINDOW, WINDOW))[::STEP, ::STEP]
    return windows.reshape(-1, WINDOW**2)


def _levels(windows: NDArray[np.generic]) -> NDArray[np.int64]:
    """Each window's grey values as 0 to 7, from its least to its greatest."""
    low, high = windows.min(axis=1, keepdims=True), windows.max(axis=1, keepdims=True)
    share = (windows - low) / np.maximum(high - low, 1e-6)
    levels: NDArray[np.int64] = np.minimum((share * LEVELS).astype(np.int64), LEVELS - 1)
    return levels


def _normalised(joint: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, levels, levels) counts -> (H(a) + H(b)) / H(a, b), NaN where both are constant."""
    share = joint / joint.sum(axis=(1, 2), keepdims=True)
    apart = _entropy(share.sum(axis=2)) + _entropy(share.sum(axis=1))
    together = _entropy(share.reshape(len(share), LEVELS**2))
    with np.errstate(invalid="ignore"):
        return np.where(together > 0, apart / together, np.nan)


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, levels) -> (n,)."""
    entropy: NDArray[np.float64] = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    return entropy


def _require_alike(source: FloatArray, result: FloatArray, mask: BoolArray) -> None:
    if source.ndim != 3 or not source.shape == result.shape == mask.shape:
        raise ValueError(
            f"source, result and mask must be (K, H, W): got {source.shape}, {result.shape}, {mask.shape}"
        )
    if not mask.any():
        raise ValueError("mask must not be empty: got no pixel")
