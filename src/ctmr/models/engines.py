"""Run a generator on whole images: padding, device, layout and precision behind one call."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ctmr.errors import ResourceError
from ctmr.intensity import FloatArray
from ctmr.memory import free_bytes, is_want_of_memory
from ctmr.networks import Generator

Precision = Literal["float32", "bfloat16"]
Forward = Callable[[FloatArray], FloatArray]
"""A generator at work: (N, C, h, w) in [-1, 1] to the same, h and w as it needs them."""


def run_generator(generator: Generator, image: FloatArray) -> FloatArray:
    """Translate an image whole, in float32 on the generator's device: no tiles, so no seams.

    Args:
        generator: Maps `(B, C, H, W)` in [-1, 1] to the same.
        image: (H, W, C) in [-1, 1], of any size; it is mirrored at its border up to a shape that fits.

    Returns:
        (H, W, C) in [-1, 1].
    """
    forward = torch_forward(generator, "float32")
    result: FloatArray = run_batch(forward, generator, image[None])[0]
    return result


def run_batch(forward: Forward, generator: Generator, images: FloatArray) -> FloatArray:
    """Translate images (N, H, W, C) in [-1, 1] of one size together by a generator made ready; see `run_generator`.

    Where memory does not suffice, half of them at a time, down to one.

    Raises:
        ResourceError: If it does not suffice for one.
    """
    height, width = images.shape[1:3]
    around = [_padding(side, generator.multiple, generator.smallest) for side in (height, width)]
    padded = np.pad(images, ((0, 0), *around, (0, 0)), mode="symmetric").transpose(0, 3, 1, 2)
    array = _in_parts(forward, np.ascontiguousarray(padded)).transpose(0, 2, 3, 1)  # (N, H, W, C)
    (top, _), (left, _) = around
    return array[:, top : top + height, left : left + width]


def _in_parts(forward: Forward, images: FloatArray) -> FloatArray:
    """Images (N, C, h, w) through a generator, together or, for want of memory, half of them at a time."""
    try:
        return forward(images)
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        if len(images) == 1:
            height, width = images.shape[2:]
            free = free_bytes()
            raise ResourceError(
                f"expected memory to translate an image of {height} x {width} pixels: found"
                f" {'too little' if free is None else f'{free:,} bytes free'}",
                fix="free memory, or take a machine with more",
            ) from error
    half = len(images) // 2
    return np.concatenate([_in_parts(forward, images[:half]), _in_parts(forward, images[half:])])


def torch_forward(generator: Generator, precision: Precision) -> Forward:
    """A generator run by PyTorch where its weights are, its multiplications in `precision`."""
    device = next(generator.parameters()).device
    if device.type == "cpu":
        nn.utils.convert_conv2d_weight_memory_format(generator, torch.channels_last)

    def forward(images: FloatArray) -> FloatArray:
        low = precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
            result: Tensor = generator(torch.from_numpy(images).to(device))
        array: FloatArray = result.float().cpu().numpy()
        return array

    return forward


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], accelerator: str) -> Precision:
    """The precision wanted; `auto` is bfloat16 where the hardware multiplies it itself, instead of emulating it."""
    if wanted != "auto":
        return wanted
    if accelerator == "cuda":
        fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        found = torch.cpu.get_capabilities()
        fast = bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return "bfloat16" if fast else "float32"


def _padding(side: int, multiple: int, smallest: int) -> tuple[int, int]:
    """Pixels before and after, so that the side is a multiple and not too small."""
    wanted = max(smallest, -(-side // multiple) * multiple)
    return (wanted - side) // 2, wanted - side - (wanted - side) // 2
