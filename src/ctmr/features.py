"""Some tens of numbers that describe an image: what a small network with fixed random weights makes of it.

Random convolutions tell textures and sharpness apart without training, so that nothing is downloaded and every machine has
the same network. They know nothing of anatomy, as the features of a trained network would.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctmr.intensity import BoolArray, FloatArray
from ctmr.randomness import stream

Features = NDArray[np.float64]

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
