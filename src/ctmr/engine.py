"""Run a generator on whole images: padding, device and layout behind one call."""

import numpy as np
import torch
from torch import Tensor

from ctmr.intensity import FloatArray
from ctmr.networks import Generator


def run_generator(generator: Generator, image: FloatArray) -> FloatArray:
    """Translate an image whole, in float32 on the generator's device: no tiles, so no seams.

    Args:
        generator: Maps `(B, C, H, W)` in [-1, 1] to the same.
        image: (H, W, C) in [-1, 1], of any size; it is mirrored at its border up to a shape that fits.

    Returns:
        (H, W, C) in [-1, 1].
    """
    result: FloatArray = run_batch(generator, image[None])[0]
    return result


def run_batch(generator: Generator, images: FloatArray) -> FloatArray:
    """Translate images (N, H, W, C) in [-1, 1] of one size together; see `run_generator`."""
    height, width = images.shape[1:3]
    around = [_padding(side, generator.multiple, generator.smallest) for side in (height, width)]
    padded = np.pad(images, ((0, 0), *around, (0, 0)), mode="symmetric").transpose(0, 3, 1, 2)
    device = next(generator.parameters()).device
    with torch.inference_mode():
        result: Tensor = generator(torch.from_numpy(np.ascontiguousarray(padded)).to(device))
    array: FloatArray = result.float().cpu().numpy().transpose(0, 2, 3, 1)  # (N, H, W, C)
    (top, _), (left, _) = around
    return array[:, top : top + height, left : left + width]


def _padding(side: int, multiple: int, smallest: int) -> tuple[int, int]:
    """Pixels before and after, so that the side is a multiple and not too small."""
    wanted = max(smallest, -(-side // multiple) * multiple)
    return (wanted - side) // 2, wanted - side - (wanted - side) // 2
