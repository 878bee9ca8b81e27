"""The structure term: a translated image has its edges where the source has them. Not in the paper.

The modality independent neighbourhood descriptor (Heinrich et al. 2012) says of each pixel how alike its
neighbourhood is to those around it, whatever the grey values; Yang et al. 2018 keep it equal between source and
translation when MR is translated to CT without pairs.
"""

import torch
from torch import Tensor, nn

# The eight neighbourhoods compared with a pixel's own, at this distance in pixels.
DISTANCE = 2
NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
# Floor of the variance that scales differences, in [-1, 1] units squared: below it lies noise.
FLOOR = 0.005


def descriptor(images: Tensor) -> Tensor:
    """MIND of `(B, C, H, W)` in [-1, 1]: `(B, 8, H, W)` in (0, 1], 1 where a neighbourhood is the pixel's own.

    Heinrich et al. 2012, equation (4): exp(-D(x, x + r) / V(x)), D the mean squared difference of 3x3 patches,
    V the mean of D over the neighbours r.
    """
    grey = images.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    height, width = grey.shape[2:]
    padded = nn.functional.pad(grey, (DISTANCE,) * 4, mode="replicate")
    differences = [
        grey - padded.narrow(2, DISTANCE * (1 + dy), height).narrow(3, DISTANCE * (1 + dx), width)
        for dy, dx in NEIGHBOURS
    ]
    squared = nn.functional.pad(
        torch.cat(differences, dim=1).square(), (1, 1, 1, 1), mode="replicate"
    )
    distance = nn.functional.avg_pool2d(squared, 3, stride=1)  # (B, 8, H, W)
    variance = distance.mean(dim=1, keepdim=True).clamp_min(FLOOR)
    return torch.exp(-distance / variance)


def structure(x: Tensor, fake_y: Tensor, y: Tensor, fake_x: Tensor) -> Tensor:
    """E[ |MIND(G(x)) - MIND(x)|_1 ] + E[ |MIND(F(y)) - MIND(y)|_1 ] (Yang et al. 2018, equation 5)."""
    with torch.no_grad():
        sources = descriptor(torch.cat([x, y]))
    return 2 * (descriptor(torch.cat([fake_y, fake_x])) - sources).abs().mean()
