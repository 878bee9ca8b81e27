"""One step of training, as the paper has it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ctmr.config import LossConfig
from ctmr.cyclegan import losses
from ctmr.cyclegan.cyclegan import gaussian_noise
from ctmr.cyclegan.mind import structure
from ctmr.cyclegan.state import TrainState
from ctmr.system.rng import stream

Autocast = Callable[[], AbstractContextManager[None]]


def train_step(
    state: TrainState, x: Tensor, y: Tensor, loss: LossConfig, autocast: Autocast, seed: int
) -> dict[str, Tensor]:
    """One update of G and F, then one of D_X and D_Y (Li 2023, sec. 2).

    Args:
        state: Changed in place.
        x: CT `(B, C, H, W)` in [-1, 1].
        y: MR, likewise; it need not pair with `x`.
        loss: Weights of equation (4).
        autocast: Context of the forward passes.
        seed: With the step's number, decides the noise and the draws from the history.

    Returns:
        The losses, detached, and the norms of both gradients under the names of `log.jsonl`.
    """
    model, rng = state.model, stream(seed, "history", state.step)
    zero = kept = x.new_zeros(())

    # Generators: minimise (4); D_X and D_Y get no gradient.
    with autocast():
        noise = gaussian_noise(x, loss.cycle_noise, seed, state.step)
        images = model(x, y, identity=loss.identity > 0, noise=noise)
        gan = losses.adversarial(model.D_Y(images.fake_y), model.D_X(images.fake_x))  # (1)
    cyc = losses.cycle(images.cycled_x, x, images.cycled_y, y)  # (2)
    idt = (
        zero if images.same_x is None else losses.identity(images.same_x, x, images.same_y, y)
    )  # (3)
    loss_g = losses.generator(
        gan, cyc, idt, cycle_weight=loss.cycle, identity_weight=loss.identity
    )  # (4)
    if loss.structure > 0:
        kept = structure(x, images.fake_y, y, images.fake_x)  # not in the paper
        loss_g = loss_g + loss.structure * kept
    state.optimiser_g.zero_grad()
    torch.autograd.backward(loss_g, inputs=model.generator_parameters())
    grad_g = _norm(model.generator_parameters())
    state.optimiser_g.step()

    # Discriminators: minimise (5), each on a real image and an earlier fake.
    shown_x = state.history_x(images.fake_x, rng)
    shown_y = state.history_y(images.fake_y, rng)
    with autocast():
        loss_d_x = losses.discriminator(*model.D_X(torch.cat([x, shown_x])).chunk(2))  # (5)
        loss_d_y = losses.discriminator(*model.D_Y(torch.cat([y, shown_y])).chunk(2))  # (5)
    state.optimiser_d.zero_grad()
    torch.autograd.backward(loss_d_x + loss_d_y)
    grad_d = _norm(model.discriminator_parameters())
    state.optimiser_d.step()

    state.step += 1
    return {
        "loss_g": loss_g.detach(),
        "gan": gan.detach(),
        "cycle": cyc.detach(),
        "identity": idt.detach(),
        "structure": kept.detach(),
        "loss_d_ct": loss_d_x.detach(),
        "loss_d_mr": loss_d_y.detach(),
        "grad_g": grad_g,
        "grad_d": grad_d,
    }


def _norm(weights: list[nn.Parameter]) -> Tensor:
    """The norm of the gradient, over all weights together."""
    return get_total_norm(
        [weight.grad for weight in weights if weight.grad is not None], foreach=True
    )


def update_average(state: TrainState, decay: float) -> None:
    """Move the averaged generators towards G and F; until `decay` is reached, over the last half of the steps."""
    decay = min(decay, state.step / (state.step + 2))
    with torch.no_grad():
        for name, averaged in state.ema.items():
            current = state.model.get_submodule(name)
            for mean, value in zip(averaged.parameters(), current.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
