"""One step of training, as the paper has it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ctmr.config import LossConfig
from ctmr.cyclegan import losses
from ctmr.cyclegan.cyclegan import gaussian_noise
from ctmr.cyclegan.mind import structure
from ctmr.cyclegan.ranks import ALONE, Ranks
from ctmr.cyclegan.state import TrainState
from ctmr.system.rng import stream

Autocast = Callable[[], AbstractContextManager[None]]


def train_step(
    state: TrainState,
    x: Tensor,
    y: Tensor,
    loss: LossConfig,
    autocast: Autocast,
    seed: int,
    *,
    known: Mapping[str, Tensor] = MappingProxyType({}),
    knots: losses.Knots | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """One update of G and F, then one of D_X and D_Y (Li 2023, sec. 2).

    Args:
        state: Changed in place.
        x: CT `(B, C, H, W)` in [-1, 1]: this process's part of the step's images.
        y: MR, likewise; it need not pair with `x`.
        loss: Weights of equation (4) and of what is not in the paper.
        autocast: Context of the forward passes.
        seed: With the step's number, decides the noise and the draws from the history.
        known: Images whose translation is known, as `ctmr.data.known` names them.
        knots: Map between HU and the values of CT images, where HU are known.
        ranks: The processes that do the step together.

    Returns:
        The losses, detached, and the norms of both gradients under the names of `log.jsonl`, those of the whole step.
    """
    model = state.model
    kept = gan = cyc = idt = loss_d_x = loss_d_y = grad_d = x.new_zeros(())
    images = None

    # Generators: minimise (4); D_X and D_Y get no gradient.
    if loss.adversary > 0 or loss.cycle > 0 or loss.identity > 0 or loss.structure > 0:
        with autocast():
            noise = gaussian_noise(x, loss.cycle_noise, seed, state.step, part=ranks.part)
            images = model(x, y, identity=loss.identity > 0, noise=noise)
            if loss.adversary > 0:
                scores = model.D_Y(images.fake_y), model.D_X(images.fake_x)
                gan = losses.adversarial(*scores)  # (1)
        cyc = losses.cycle(images.cycled_x, x, images.cycled_y, y)  # (2)
        if images.same_x is not None:
            idt = losses.identity(images.same_x, x, images.same_y, y)  # (3)
        if loss.structure > 0:
            kept = structure(x, images.fake_y, y, images.fake_x)  # not in the paper
    loss_g = losses.generator(
        loss.adversary * gan, cyc, idt, cycle_weight=loss.cycle, identity_weight=loss.identity
    )  # (4)
    if loss.structure > 0:
        loss_g = loss_g + loss.structure * kept
    found = _known_losses(state, y, known, loss, autocast, knots, seed, ranks)  # not in the paper
    for name, value in found.items():
        loss_g = loss_g + getattr(loss, name) * value
    state.optimiser_g.zero_grad()
    torch.autograd.backward(loss_g, inputs=model.generator_parameters())
    ranks.average_gradients(model.generator_parameters())
    grad_g = _norm(model.generator_parameters())
    state.optimiser_g.step()

    # Discriminators: minimise (5), each on a real image and an earlier fake.
    if images is not None and loss.adversary > 0:
        rng = stream(seed, "history", state.step)
        shown_x = ranks.own(state.history_x(ranks.gathered(images.fake_x), rng))
        shown_y = ranks.own(state.history_y(ranks.gathered(images.fake_y), rng))
        with autocast():
            loss_d_x = losses.discriminator(*model.D_X(torch.cat([x, shown_x])).chunk(2))  # (5)
            loss_d_y = losses.discriminator(*model.D_Y(torch.cat([y, shown_y])).chunk(2))  # (5)
        state.optimiser_d.zero_grad()
        torch.autograd.backward(loss_d_x + loss_d_y)
        ranks.average_gradients(model.discriminator_parameters())
        grad_d = _norm(model.discriminator_parameters())
        state.optimiser_d.step()

    state.step += 1
    values = {
        "loss_g": loss_g,
        "gan": gan,
        "cycle": cyc,
        "identity": idt,
        "structure": kept,
        **found,
        "loss_d_ct": loss_d_x,
        "loss_d_mr": loss_d_y,
    }
    return {**ranks.means(values), "grad_g": grad_g, "grad_d": grad_d}


def _known_losses(
    state: TrainState,
    y: Tensor,
    known: Mapping[str, Tensor],
    loss: LossConfig,
    autocast: Autocast,
    knots: losses.Knots | None,
    seed: int,
    ranks: Ranks,
) -> dict[str, Tensor]:
    """How far both generators are from translations that are known, by the field of `LossConfig` that weighs it.

    Of a half-real pair the real slice is the target: F sees an MR rendered from the CT, and G a CT made by the averaged F,
    which gets no gradient: the paper's cycle with its first half held still.
    """
    to_ct: dict[str, tuple[Tensor, Tensor]] = {}
    to_mr: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ("truth", "pairs"):
        if f"{name}_mr" in known:
            to_ct[name] = known[f"{name}_mr"], known[f"{name}_true_ct"]
            to_mr[name] = known[f"{name}_ct"], known[f"{name}_true_mr"]
    if "half_real_mr" in known:
        to_ct["half_real"] = known["half_real_mr"], known["half_real_true_ct"]
        with torch.no_grad(), autocast():
            made = state.translators()[1](y).clamp(-1, 1).to(y.dtype)
        key = (seed, "half-real", state.step)
        noise = gaussian_noise(made, loss.cycle_noise, *key, part=ranks.part)
        to_mr["half_real"] = made if noise is None else made + noise[0], y
    found: dict[str, Tensor] = {}
    for network, pairs, distance in (
        (state.model.F, to_ct, partial(losses.known_ct, knots=knots)),
        (state.model.G, to_mr, losses.known_mr),
    ):
        if pairs:
            with autocast():
                answers = network(torch.cat([image for image, _ in pairs.values()]))
            for (name, (_, true)), answer in zip(
                pairs.items(), answers.chunk(len(pairs)), strict=True
            ):
                found[name] = found.get(name, 0) + distance(answer, true)
    return found


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
