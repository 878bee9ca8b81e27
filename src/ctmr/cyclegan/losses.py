"""Equations (1) to (5) of Li 2023, one function each, and what is not in the paper.

Scores are discriminator outputs `(B, 1, h, w)`, unbounded; images are `(B, C, H, W)` in [-1, 1].
Each expectation is the mean over batch, channels and pixels. X is CT and Y is MR.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Knots = Sequence[tuple[float, float]]
"""(HU, value in [-1, 1]) of a piecewise linear map, both increasing."""


def adversarial(score_fake_y: Tensor, score_fake_x: Tensor) -> Tensor:
    """Equation (1): L_GAN = 1/2 { (D_Y(G(x)) - 1)^2 + (D_X(F(y)) - 1)^2 }."""
    return ((score_fake_y - 1).square().mean() + (score_fake_x - 1).square().mean()) / 2


def cycle(cycled_x: Tensor, x: Tensor, cycled_y: Tensor, y: Tensor) -> Tensor:
    """Equation (2): L_cyc = E[ |F(G(x)) - x|_1 ] + E[ |G(F(y)) - y|_1 ]."""
    return (cycled_x - x).abs().mean() + (cycled_y - y).abs().mean()


def identity(same_x: Tensor, x: Tensor, same_y: Tensor, y: Tensor) -> Tensor:
    """Equation (3): L_identity = E[ |F(x) - x|_1 ] + E[ |G(y) - y|_1 ]."""
    return (same_x - x).abs().mean() + (same_y - y).abs().mean()


def generator(
    gan: Tensor, cyc: Tensor, idt: Tensor, *, cycle_weight: float, identity_weight: float
) -> Tensor:
    """Equation (4): L_GAN + 4 L_cyc + 8 L_identity, with the paper's weights 4 and 8 as arguments.

    The identity weight stands alone: it is not multiplied by the cycle weight, as in the code of Zhu et al. 2017.
    """
    return gan + cycle_weight * cyc + identity_weight * idt


def discriminator(score_real: Tensor, score_fake: Tensor) -> Tensor:
    """Equation (5): 1/2 { (D(y) - 1)^2 + (D(G(x)))^2 }, once for each discriminator."""
    return ((score_real - 1).square().mean() + score_fake.square().mean()) / 2


# -- not in the paper ----------------------------------------------------------------------------


def known_mr(made: Tensor, true: Tensor) -> Tensor:
    """Distance from a translation that is known: mean |difference|, and half that of neighbouring pixels' steps."""
    loss = (made - true).abs().mean()
    for axis in (2, 3):
        loss = loss + 0.25 * (made.diff(dim=axis) - true.diff(dim=axis)).abs().mean()
    return loss


def known_ct(made: Tensor, true: Tensor, knots: Knots | None) -> Tensor:
    """The same of a CT: in thousands of HU where HU are known, and a little in the values themselves."""
    if knots is None:
        return known_mr(made, true)
    in_hu = known_mr(decoded(made, knots) / 1000, decoded(true, knots) / 1000)
    return in_hu + 0.15 * known_mr(made, true)


def decoded(values: Tensor, knots: Knots) -> Tensor:
    """HU of values in [-1, 1], linear between the knots and beyond the ends."""
    hu = torch.full_like(values, knots[0][0])
    for (low, first), (high, last) in pairwise(knots):
        below = None if (low, first) == knots[0] else first
        above = None if (high, last) == knots[-1] else last
        hu = hu + (values.clamp(below, above) - first) * ((high - low) / (last - first))
    return hu
