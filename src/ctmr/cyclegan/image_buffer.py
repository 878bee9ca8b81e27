"""The buffer of earlier fakes that a discriminator is shown (Shrivastava et al. 2017, sec. 2.3)."""

import numpy as np
import torch
from torch import Tensor


class History:
    """Up to `capacity` earlier fakes; half of the images given are exchanged for one of them.

    Attributes:
        images: Stored fakes, each `(C, H, W)` in [-1, 1], oldest first until the buffer is full.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.images: list[Tensor] = []

    def __call__(self, fakes: Tensor, rng: np.random.Generator) -> Tensor:
        """Exchange some of the fakes `(B, C, H, W)` for earlier ones; gradients do not pass."""
        shown = []
        for fake in fakes.detach():
            if len(self.images) < self.capacity:
                self.images.append(fake.clone())
                shown.append(fake)
            elif self.capacity > 0 and rng.random() < 0.5:
                i = int(rng.integers(self.capacity))
                shown.append(self.images[i])
                self.images[i] = fake.clone()
            else:
                shown.append(fake)
        return torch.stack(shown)
