"""How far apart two sets of images are as distributions, and the features that are compared; not FID or KID, whose features are Inception's."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctmr.results import Distances
from ctmr.system.rng import stream
from ctmr.types import BoolArray, FloatArray

HALVINGS = 20  # of the patients, over which `compare` averages

Features = NDArray[np.float64]


def _of_halves(
    real: tuple[Features, Features], translated: tuple[Features, Features]
) -> tuple[float, ...]:
    """The four distances of `Distances`, given two halves of each set."""
    crossed = (real[0], translated[1]), (real[1], translated[0])
    return (
        sum(frechet(*pair) for pair in crossed) / 2,
        frechet(*real),
        sum(kernel(*pair) for pair in crossed) / 2,
        kernel(*real),
    )


def frechet(first: Features, second: Features) -> float:
    """The Frechet distance of the Gaussians that fit two sets, (N, D) and (M, D); 0 or more.

    With few images a covariance is singular, so its off-diagonal is multiplied by N / (N + D). What remains makes
    the distance of two sets of one distribution greater than 0, the more so the smaller they are.
    """
    return frechet_of(_gaussian(first), _gaussian(second))


def frechet_of(first: tuple[Features, Features], second: tuple[Features, Features]) -> float:
    """The squared Frechet distance of two Gaussians, each (mean (D,), covariance (D, D)) (Dowson and Landau 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # C1 C2 and C1^(1/2) C2 C1^(1/2) have the same eigenvalues; the latter is symmetric.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_2 @ root), 0)).sum()
    spread = np.trace(covariance_1) + np.trace(covariance_2) - 2 * shared
    return float(max(np.square(mean_1 - mean_2).sum() + spread, 0))


def kernel(first: Features, second: Features) -> float:
    """The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, of sets (N, D) and (M, D).

    The estimator without bias (Gretton et al. 2012, lemma 6; the kernel of Binkowski et al. 2018): for two sets of
    one distribution it is 0 on average, so below 0 half of the time.
    """
    n, m = len(first), len(second)
    within_1, within_2 = _cubes(first, first), _cubes(second, second)
    return float(
        (within_1.sum() - np.trace(within_1)) / (n * (n - 1))
        + (within_2.sum() - np.trace(within_2)) / (m * (m - 1))
        - 2 * _cubes(first, second).mean()
    )


def compare(
    real: Features,
    translated: Features,
    real_patients: Sequence[str],
    translated_patients: Sequence[str],
    *,
    seed: int = 0,
) -> Distances | None:
    """Both distances between real and translated images of one modality, beside those between real images.

    The patients are halved at random, 20 times. Real images of one half are compared with translated images of the
    other half, and with its real images: sets of like size and of different patients both times, so that whatever
    few images do to a distance they do to both. Features are divided by their deviation over the real images.

    Args:
        real: (N, D), a row for each image.
        translated: (M, D).
        real_patients: For each row, the patient; who is in both sets is in the same half of both.
        translated_patients: Likewise.
        seed: Of the halvings.

    Returns:
        Means over the halvings; None where no halving leaves two images in each half of each set.

    Raises:
        ValueError: If the lengths differ.
    """
    if len(real) != len(real_patients) or len(translated) != len(translated_patients):
        raise ValueError(
            f"expected a patient for each row: got {len(real_patients)} for {real.shape} and"
            f" {len(translated_patients)} for {translated.shape}"
        )
    names = sorted({*real_patients, *translated_patients})
    centre, deviation = real.mean(axis=0), real.std(axis=0) + 1e-6
    real, translated = (real - centre) / deviation, (translated - centre) / deviation
    rows = []
    for draw in range(HALVINGS):
        order = stream(seed, "halves", draw).permutation(len(names))
        half = {names[place] for place in order[: len(names) // 2]}
        first, second = (
            np.array([patient in half for patient in patients])
            for patients in (real_patients, translated_patients)
        )
        if min(first.sum(), (~first).sum(), second.sum(), (~second).sum()) >= 2:
            halves = (real[first], real[~first]), (translated[second], translated[~second])
            rows.append(_of_halves(*halves))
    if not rows:
        return None
    return Distances(*(float(column.mean()) for column in np.array(rows).T))


def _cubes(first: Features, second: Features) -> Features:
    cubes: Features = (first @ second.T / first.shape[1] + 1) ** 3
    return cubes


def _gaussian(rows: Features) -> tuple[Features, Features]:
    """Mean and shrunk covariance of (N, D)."""
    count, dimensions = rows.shape
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    shrunk = covariance * count / (count + dimensions)
    np.fill_diagonal(shrunk, np.diag(covariance))
    return rows.mean(axis=0), shrunk


FILTERS = 8
SIDE = 5  # of a filter, in pixels
SCALES = 3  # each of half as many pixels a side as the one before
COUNT = 2 * FILTERS * SCALES
BATCH = 16  # images at a time: memory does not grow with their number


def features(images: FloatArray, masks: BoolArray) -> Features:
    """Mean and deviation, in the head, of each channel of the network at each scale.

    Args:
        images: (N, H, W) in [-1, 1].
        masks: (N, H, W), where the head is; all outside is made -1 (air) first.

    Returns:
        (N, 48).

    Raises:
        ValueError: If the shapes differ, or a mask is empty.
    """
    if images.ndim != 3 or images.shape != masks.shape:
        raise ValueError(
            f"images and masks must be (N, H, W): got {images.shape} and {masks.shape}"
        )
    if not masks.any(axis=(1, 2)).all():
        raise ValueError("masks must not be empty: got one without a pixel")
    weights = _weights()
    batches = [
        _of_batch(images[n : n + BATCH], masks[n : n + BATCH], weights)
        for n in range(0, len(images), BATCH)
    ]
    return np.concatenate(batches)


def _weights() -> list[Tensor]:
    """For each scale, (8, channels, 5, 5): Gaussian, each filter of unit norm."""
    weights, channels = [], 1
    for scale in range(SCALES):
        drawn = stream("features", scale).standard_normal((FILTERS, channels, SIDE, SIDE))
        drawn /= np.sqrt(np.square(drawn).sum(axis=(1, 2, 3), keepdims=True))
        weights.append(torch.from_numpy(drawn.astype(np.float32)))
        channels = FILTERS
    return weights


def _of_batch(images: FloatArray, masks: BoolArray, weights: list[Tensor]) -> Features:
    share = torch.from_numpy(masks.astype(np.float32))[:, None]  # (N, 1, H, W)
    seen = (torch.from_numpy(images)[:, None] + 1) * share  # air is 0
    found = []
    with torch.inference_mode():
        for filters in weights:
            padded = nn.functional.pad(seen, (SIDE // 2,) * 4, mode="replicate")
            seen = torch.relu(nn.functional.conv2d(padded, filters))  # (N, 8, h, w)
            mean = _mean(seen, share)
            variance = _mean((seen - mean[..., None, None]).square(), share)
            found += [mean, variance.sqrt()]
            seen = nn.functional.avg_pool2d(seen, 2, ceil_mode=True)
            share = nn.functional.avg_pool2d(share, 2, ceil_mode=True)
    return torch.cat(found, dim=1).double().numpy()


def _mean(values: Tensor, share: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C): the mean over pixels, each counted by its share of head."""
    return (values * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3))
