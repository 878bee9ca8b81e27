"""The generators, the PatchGAN discriminator and their initialisation.

Every network maps `(B, C, H, W)`; no convolution before an instance norm has a bias, which the norm would remove.
Networks on a CPU are meant to be in channels-last layout (`ctmr help performance`).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ctmr.config import GENERATOR_SIDES

Upsample = Literal["deconvolution", "nearest"]


class ReflectionPad(nn.Module):
    """Reflection padding with a deterministic gradient on every device.

    On a GPU it is made of slices and flips, bit-equal to `nn.ReflectionPad2d`, whose gradient is not deterministic there.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H + 2 width, W + 2 width)
        n = self.width
        if x.device.type == "cpu":
            return nn.functional.pad(x, (n, n, n, n), mode="reflect")
        tall = torch.cat([x[:, :, 1 : n + 1].flip(2), x, x[:, :, -n - 1 : -1].flip(2)], dim=2)
        return torch.cat(
            [tall[..., 1 : n + 1].flip(3), tall, tall[..., -n - 1 : -1].flip(3)], dim=3
        )


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm (Ulyanov et al. 2016), without weights of its own.

    On a CPU an image in channels-last layout is a matrix of pixels by channels, whose columns batch norm normalises: the
    same mathematics without the copies to another layout and back that PyTorch's instance norm makes. Its sums in float32
    are less exact: 2e-5 in place of 5e-7 at 256x256.
    """

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if traced or x.device.type != "cpu":  # other engines have an instance norm of their own
            return super().forward(x)
        normed = []
        for image in x.permute(0, 2, 3, 1):  # (H, W, C)
            pixels = image.reshape(-1, image.shape[2])
            flat = nn.functional.batch_norm(pixels, None, None, training=True, eps=self.eps)
            normed.append(flat.view(image.shape))
        together = torch.stack(normed) if len(normed) > 1 else normed[0][None]  # stacking copies
        return together.permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Group norm (Wu and He 2018); in bfloat16 on a CPU by way of float32, where PyTorch's gradient is faster."""

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            scale, shift = self.weight.float(), self.bias.float()
            normed = nn.functional.group_norm(x.float(), self.num_groups, scale, shift, self.eps)
            return normed.to(x.dtype)
        return super().forward(x)


class ReflectedBlock(nn.Module):
    """Residual block of Zhu et al. 2017: two reflection-padded 3x3 convolutions, no activation after the sum."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReflectionPad(1),
            nn.Conv2d(filters, filters, 3, bias=False),
            InstanceNorm(filters),
            nn.ReLU(inplace=True),
            ReflectionPad(1),
            nn.Conv2d(filters, filters, 3, bias=False),
            InstanceNorm(filters),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class BasicBlock(nn.Module):
    """Basic block of ResNet-34 (He et al. 2016, fig. 5 left) with instance norm."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 3, stride, 1, bias=False),
            InstanceNorm(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, 1, 1, bias=False),
            InstanceNorm(filters),
        )
        self.shortcut = _shortcut(inputs, filters, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


class Bottleneck(nn.Module):
    """Bottleneck block of ResNet-50 (He et al. 2016, fig. 5 right) with instance norm; 4x as many outputs."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, bias=False),
            InstanceNorm(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, stride, 1, bias=False),
            InstanceNorm(filters),
            nn.ReLU(inplace=True),
            nn.Conv2d(filters, 4 * filters, 1, bias=False),
            InstanceNorm(4 * filters),
        )
        self.shortcut = _shortcut(inputs, 4 * filters, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.body(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    convolution: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, stride, bias=False)]
    if stride > 1 and inputs < 8:
        # There the gradient of a strided 1x1 convolution writes beyond its memory on processors with AVX2 only
        # (PyTorch 2.13, channels last): take every second pixel first.
        convolution = [nn.MaxPool2d(1, stride), nn.Conv2d(inputs, outputs, 1, bias=False)]
    return nn.Sequential(*convolution, InstanceNorm(outputs))


class ResnetGenerator(nn.Module):
    """Residual blocks at a quarter of the resolution (Johnson et al. 2016, Zhu et al. 2017).

    Maps `(B, C, H, W)` in [-1, 1] to the same; H and W are multiples of `multiple`, at least `smallest`.
    """

    multiple, smallest = GENERATOR_SIDES["resnet"]

    def __init__(self, channels: int, filters: int, blocks: int, upsample: Upsample) -> None:
        super().__init__()
        n = filters
        self.body = nn.Sequential(
            ReflectionPad(3),
            nn.Conv2d(channels, n, 7, bias=False),
            InstanceNorm(n),
            nn.ReLU(inplace=True),  # (B, n, H, W)
            *_down(n, 2 * n),  # (B, 2n, H/2, W/2)
            *_down(2 * n, 4 * n),  # (B, 4n, H/4, W/4)
            *(ReflectedBlock(4 * n) for _ in range(blocks)),
            *_up(4 * n, 2 * n, upsample),  # (B, 2n, H/2, W/2)
            *_up(2 * n, n, upsample),  # (B, n, H, W)
            ReflectionPad(3),
            nn.Conv2d(n, channels, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x).to(x.dtype))


class EncoderDecoder(nn.Module):
    """A whole ResNet encoder to 1/32 of the resolution, followed by deconvolution back to full size.

    Maps `(B, C, H, W)` in [-1, 1] to the same; H and W are multiples of `multiple`, at least `smallest`:
    below it an instance norm would see a 1x1 map.
    """

    multiple, smallest = GENERATOR_SIDES["resnet50"]

    def __init__(
        self,
        channels: int,
        filters: int,
        block: type[BasicBlock] | type[Bottleneck],
        upsample: Upsample,
        skips: bool,
    ) -> None:
        super().__init__()
        n, expansion = filters, 4 if block is Bottleneck else 1
        self.skips = skips
        self.stem = nn.Sequential(
            nn.Conv2d(channels, n, 7, 2, 3, bias=False), InstanceNorm(n), nn.ReLU(inplace=True)
        )  # (B, n, H/2, W/2)
        self.pool = nn.MaxPool2d(3, 2, 1)  # (B, n, H/4, W/4)
        self.stages = nn.ModuleList()
        inputs = n
        for stage, count in enumerate((3, 4, 6, 3)):  # He et al. 2016, table 1
            width = n * 2**stage
            blocks: list[nn.Module] = []
            for i in range(count):
                blocks.append(block(inputs, width, 2 if i == 0 and stage > 0 else 1))
                inputs = expansion * width
            self.stages.append(nn.Sequential(*blocks))  # (B, expansion width, H/2^(stage+2), ...)
        seen = [
            n,
            *(expansion * n * 2**stage for stage in range(3)),
        ]  # widths at 1/2, 1/4, 1/8, 1/16
        self.ups = nn.ModuleList()
        for width, skip in zip((4 * n, 2 * n, n, n), reversed(seen), strict=True):
            self.ups.append(nn.Sequential(*_up(inputs, width, upsample)))
            inputs = width + (skip if skips else 0)
        self.head = nn.Sequential(
            *_up(inputs, n // 2, upsample), ReflectionPad(3), nn.Conv2d(n // 2, channels, 7)
        )

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = self.stem(x)
        seen = [x]
        x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        for up, skip in zip(self.ups, reversed(seen[:-1]), strict=True):
            x = up(x)
            if self.skips:
                x = torch.cat([x, skip], dim=1)
        return torch.tanh(self.head(x).to(dtype))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) on 2x2 blocks of pixels, with group norm (Wu and He 2018).

    The four pixels of a block are four channels (Shi et al. 2016), so that no layer works at the full resolution. What comes
    out is linear: it is clipped to [-1, 1] but for training.

    Maps `(B, C, H, W)` in [-1, 1] to the same; H and W are multiples of `multiple`, at least `smallest`.
    """

    multiple, smallest = GENERATOR_SIDES["unet"]

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        widths = [filters * times for times in (1, 2, 4, 8)]
        inputs = [4 * channels, *widths[:-1]]
        self.down = nn.ModuleList(_twice(i, o) for i, o in zip(inputs, widths, strict=True))
        self.narrow = nn.ModuleList(
            nn.Conv2d(wide, wide // 2, 1, bias=False) for wide in widths[:0:-1]
        )
        self.up = nn.ModuleList(_twice(wide, wide // 2) for wide in widths[:0:-1])
        self.head = nn.Conv2d(filters, 4 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = nn.functional.pixel_unshuffle(x, 2)  # (B, 4C, H/2, W/2)
        seen: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.avg_pool2d(x, 2))
            seen.append(x)
        for narrow, block, skip in zip(self.narrow, self.up, seen[-2::-1], strict=True):
            wide = nn.functional.interpolate(narrow(x), scale_factor=2, mode="nearest")
            x = block(torch.cat([wide, skip], dim=1))
        y = nn.functional.pixel_shuffle(self.head(x).to(dtype), 2)
        return y if self.training else y.clamp(-1, 1)


def _twice(inputs: int, outputs: int) -> nn.Module:
    """Two 3x3 convolutions, each with group norm and ReLU."""
    layers: list[nn.Module] = []
    for wide in (inputs, outputs):
        layers += [
            nn.Conv2d(wide, outputs, 3, padding=1, bias=False),
            GroupNorm(math.gcd(8, outputs), outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


Generator = ResnetGenerator | EncoderDecoder | UNet


def _down(inputs: int, outputs: int) -> Sequence[nn.Module]:
    return (
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
        InstanceNorm(outputs),
        nn.ReLU(inplace=True),
    )


def _up(inputs: int, outputs: int, upsample: Upsample) -> Sequence[nn.Module]:
    """Double the resolution; nearest and convolution leaves no checkerboard (Odena et al. 2016)."""
    enlarge: Sequence[nn.Module]
    if upsample == "deconvolution":
        enlarge = (nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False),)
    else:
        enlarge = (
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
        )
    return (*enlarge, InstanceNorm(outputs), nn.ReLU(inplace=True))


def build_generator(
    name: Literal["resnet", "resnet34", "resnet50", "unet"],
    *,
    channels: int,
    filters: int,
    blocks: int,
    upsample: Upsample,
    skips: bool,
) -> Generator:
    """The generator of that name, with weights not yet initialised."""
    if name == "resnet":
        return ResnetGenerator(channels, filters, blocks, upsample)
    if name == "unet":
        return UNet(channels, filters)
    block = BasicBlock if name == "resnet34" else Bottleneck
    return EncoderDecoder(channels, filters, block, upsample, skips)


class Discriminator(nn.Module):
    """70x70 PatchGAN (Isola et al. 2017): `(B, C, H, W)` in [-1, 1] -> scores `(B, 1, H/8 - 2, W/8 - 2)`."""

    smallest = 32

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        n = filters
        layers: list[nn.Module] = [nn.Conv2d(channels, n, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, outputs, stride in ((n, 2 * n, 2), (2 * n, 4 * n, 2), (4 * n, 8 * n, 1)):
            layers += [
                nn.Conv2d(inputs, outputs, 4, stride, 1, bias=False),
                InstanceNorm(outputs),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.body = nn.Sequential(*layers, nn.Conv2d(8 * n, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x).to(x.dtype)
        return scores


def initialise(
    network: nn.Module, method: Literal["normal", "uniform"], generator: torch.Generator
) -> None:
    """Draw every convolution's weights; biases are zero, the scales of norms one.

    `normal` is N(0, 0.02^2) (Radford et al. 2016); `uniform` is U(-b, b) with b = 1 / sqrt(inputs of a unit), which
    PyTorch uses by itself (He et al. 2015, with a = sqrt(5)).
    """
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float(name.endswith("weight")))  # of a norm
        elif method == "normal":
            nn.init.normal_(parameter, 0.0, 0.02, generator=generator)
        else:
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)
