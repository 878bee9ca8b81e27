"""Networks of pytorch-CycleGAN-and-pix2pix, told again by what its papers and the names of its weights say."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from ctmr.system.rng import torch_stream

KINDS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": lambda _: nn.Identity()}


class Block(nn.Module):
    """A residual block; its parts are numbered within `conv_block`."""

    def __init__(self, filters: int, norm: str, dropout: bool) -> None:
        super().__init__()

        def half() -> list[nn.Module]:
            convolution = nn.Conv2d(filters, filters, 3, bias=norm == "instance")
            return [nn.ReflectionPad2d(1), convolution, KINDS[norm](filters)]

        between = [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*half(), *between, *half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


class Resnet(nn.Module):
    """The ResNet generator; its parts are numbered within `model`."""

    def __init__(
        self, channels=1, filters=4, blocks=2, *, out=None, norm="instance", dropout=False
    ) -> None:
        super().__init__()
        n, bias = filters, norm == "instance"
        parts: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, n, 7, bias=bias)]
        parts += [KINDS[norm](n), nn.ReLU()]
        for wide in (n, 2 * n):
            parts += [nn.Conv2d(wide, 2 * wide, 3, 2, 1, bias=bias), KINDS[norm](2 * wide)]
            parts += [nn.ReLU()]
        parts += [Block(4 * n, norm, dropout) for _ in range(blocks)]
        for wide in (4 * n, 2 * n):
            up = nn.ConvTranspose2d(wide, wide // 2, 3, 2, 1, output_padding=1, bias=bias)
            parts += [up, KINDS[norm](wide // 2), nn.ReLU()]
        parts += [nn.ReflectionPad2d(3), nn.Conv2d(n, out or channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class Patches(nn.Module):
    """The PatchGAN discriminator of three layers."""

    def __init__(self, channels=1, filters=4, *, norm="instance") -> None:
        super().__init__()
        n, bias = filters, norm == "instance"
        parts: list[nn.Module] = [nn.Conv2d(channels, n, 4, 2, 1), nn.LeakyReLU(0.2)]
        for inputs, outputs, stride in ((n, 2 * n, 2), (2 * n, 4 * n, 2), (4 * n, 8 * n, 1)):
            parts += [nn.Conv2d(inputs, outputs, 4, stride, 1, bias=bias)]
            parts += [KINDS[norm](outputs), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*parts, nn.Conv2d(8 * n, 1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class UNetLevel(nn.Module):
    """A level of the reference's U-Net, which holds the next one, as far as names go."""

    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        down, up = nn.Conv2d(4, 4, 4, 2, 1), nn.ConvTranspose2d(8 if inner else 4, 4, 4, 2, 1)
        self.model = nn.Sequential(down, *([inner] if inner else []), up)


def unet() -> nn.Module:
    """A U-Net of three levels."""
    whole = nn.Module()
    whole.model = UNetLevel(UNetLevel(UNetLevel(None)))
    return whole


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """A network with random weights and biases, for use, not training."""
    rng = torch_stream(seed, "reference")
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, 0.1, generator=rng)
    return network.eval()


def save(network: nn.Module, file: Path, *, prefix: str = "", more=(), **options: bool) -> Path:
    """Write the weights of a network, as the reference does; `more` are entries beside them."""
    named = OrderedDict((prefix + key, value) for key, value in network.state_dict().items())
    named.update(more)
    torch.save(named, file, **options)
    return file
