"""The four networks and the six images of one step. X = CT and Y = MR is decided here only."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctmr.config import Config, NetworkConfig
from ctmr.cyclegan.networks import (
    Discriminator,
    EncoderDecoder,
    Generator,
    ResnetGenerator,
    UNet,
    build_generator,
    initialise,
)
from ctmr.errors import UsageError
from ctmr.system.rng import torch_stream


class CycleImages(NamedTuple):
    """The images of one step, each `(B, C, H, W)` in [-1, 1]; `same_*` are None where not asked for."""

    fake_y: Tensor
    """G(x)"""
    fake_x: Tensor
    """F(y)"""
    cycled_x: Tensor
    """F(G(x))"""
    cycled_y: Tensor
    """G(F(y))"""
    same_x: Tensor | None
    """F(x)"""
    same_y: Tensor | None
    """G(y)"""


class CycleGAN(nn.Module):
    """Two generators G: X -> Y and F: Y -> X, two discriminators D_X and D_Y (Li 2023, fig. 2)."""

    def __init__(self, network: NetworkConfig, channels: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(
            devices=[]
        ):  # layers draw weights first, which are replaced below
            self.G = generator_of(network, channels)
            self.F = generator_of(network, channels)
            self.D_X: nn.Module = Discriminator(channels, network.discriminator_filters)
            self.D_Y: nn.Module = Discriminator(channels, network.discriminator_filters)
        for name, part in self.named_children():
            initialise(part, network.initialisation, torch_stream(seed, "initialise", name))

    def forward(
        self, x: Tensor, y: Tensor, *, identity: bool, noise: tuple[Tensor, Tensor] | None = None
    ) -> CycleImages:
        """Translate both ways and back.

        Args:
            x: CT `(B, C, H, W)` in [-1, 1].
            y: MR, likewise.
            identity: Whether F(x) and G(y) are wanted.
            noise: Added to G(x) and F(y) before they go back, so that nothing can hide in them.
        """
        fake_y, same_y = _halves(self.G, x, y) if identity else (self.G(x), None)
        fake_x, same_x = _halves(self.F, y, x) if identity else (self.F(y), None)
        noise_y, noise_x = noise if noise is not None else (0, 0)
        return CycleImages(
            fake_y=fake_y,
            fake_x=fake_x,
            cycled_x=self.F(fake_y + noise_y),
            cycled_y=self.G(fake_x + noise_x),
            same_x=same_x,
            same_y=same_y,
        )

    def generator_parameters(self) -> list[nn.Parameter]:
        """Parameters of G and F."""
        return [*self.G.parameters(), *self.F.parameters()]

    def discriminator_parameters(self) -> list[nn.Parameter]:
        """Parameters of D_X and D_Y."""
        return [*self.D_X.parameters(), *self.D_Y.parameters()]


def _halves(network: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The network's answers to two batches, computed in one pass."""
    answer_first, answer_second = network(torch.cat([first, second])).chunk(2)
    return answer_first, answer_second


def generator_of(network: NetworkConfig, channels: int) -> Generator:
    """One generator as the configuration describes it, weights not yet initialised."""
    return build_generator(
        network.generator,
        channels=channels,
        filters=network.filters,
        blocks=network.blocks,
        upsample=network.upsample,
        skips=network.skips,
    )


def check_size(config: Config) -> None:
    """Refuse a training size that the networks cannot take.

    Raises:
        UsageError: Naming the nearest larger size that fits.
    """
    size, name = config.data.size, config.network.generator
    generators: dict[str, type[Generator]] = {"resnet": ResnetGenerator, "unet": UNet}
    generator = generators.get(name, EncoderDecoder)
    multiple, smallest = generator.multiple, max(generator.smallest, Discriminator.smallest)
    if size % multiple or size < smallest:
        raise UsageError(
            f"data.size must be a multiple of {multiple} and at least {smallest} for the generator"
            f" {name} and the discriminators: found {size}",
            fix=f"set data.size={max(smallest, -(-size // multiple) * multiple)}",
        )


def gaussian_noise(
    like: Tensor, deviation: float, *key: int | str, part: tuple[int, int] = (0, 1)
) -> tuple[Tensor, Tensor] | None:
    """Two independent noise images of that shape, a pure function of the key; None for deviation 0.

    Args:
        like: The images `(B, C, H, W)` that they go on.
        deviation: Standard deviation.
        key: What they are a function of.
        part: Which of how many equal parts of the step's images these are, as the noise is drawn for all of them.
    """
    if deviation == 0:
        return None
    generator, (which, parts) = torch_stream("cycle noise", *key), part
    shape = (2, parts * len(like), *like.shape[1:])
    drawn = deviation * torch.randn(shape, generator=generator)
    first, second = drawn[:, which * len(like) :][:, : len(like)].to(like.device)
    return first, second
