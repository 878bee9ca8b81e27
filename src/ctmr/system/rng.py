"""Random numbers as a pure function of a key: nothing is drawn from, or kept in, global state."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream(*key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on the key alone, e.g. `stream(seed, "flip", epoch, position)`."""
    return np.random.Generator(np.random.PCG64(_number(key)))


def torch_stream(*key: int | str) -> "torch.Generator":
    """The same for torch, on the CPU."""
    import torch  # here, since processes that make heads have no use for it

    return torch.Generator().manual_seed(_number(key) >> 65)  # 63 bits


def _number(key: tuple[int | str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=16).digest(), "big")
