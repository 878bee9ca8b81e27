import copy
import math

import pytest
import torch
from torch import nn

from ctmr.cyclegan.networks import (
    BasicBlock,
    Bottleneck,
    Discriminator,
    GroupNorm,
    InstanceNorm,
    ReflectionPad,
    build_generator,
    initialise,
)
from ctmr.system.rng import torch_stream

NAMES = ("resnet", "resnet34", "resnet50")
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def generator(name, *, channels=1, filters=4, blocks=1, upsample="nearest", skips=False):
    built = build_generator(
        name, channels=channels, filters=filters, blocks=blocks, upsample=upsample, skips=skips
    )
    initialise(built, "normal", torch_stream(0, name))
    return built


def gmac(network, *shape):
    """Multiplications of the convolutions for an input of that shape, in units of 1e9, without computing them."""
    counted = []

    def count(layer, inputs, output):
        outward = isinstance(layer, nn.ConvTranspose2d)  # each input value meets the whole kernel
        pixels = (inputs[0] if outward else output).numel()
        other = layer.out_channels if outward else layer.in_channels
        counted.append(pixels * other * math.prod(layer.kernel_size))

    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.register_forward_hook(count)
    network(torch.empty(shape, device="meta"))
    return sum(counted) / 1e9


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch_stream(seed)) * 2 - 1


# Cost


def test_count_of_multiplications_by_hand():
    with torch.device("meta"):
        # 8 * 8 outputs * 3 inputs * 2 outputs * 9 = 3456; 4 * 4 inputs * 2 inputs * 5 outputs * 9 = 1440
        convolution = nn.Conv2d(3, 2, 3, padding=1)
        transposed = nn.ConvTranspose2d(2, 5, 3, 2, 1, output_padding=1)
    assert gmac(convolution, 1, 3, 8, 8) == pytest.approx(3456e-9)
    assert gmac(transposed, 1, 2, 4, 4) == pytest.approx(1440e-9)


@pytest.mark.parametrize("skips", [False, True])
def test_resnet34_costs_at_most_7_gmac_at_256_pixels(skips):
    with torch.device("meta"):
        network = build_generator(
            "resnet34", channels=1, filters=64, blocks=16, upsample="deconvolution", skips=skips
        )
    assert gmac(network, 1, 1, 256, 256) <= 7


@pytest.mark.parametrize(("blocks", "expected"), [(16, 82.6), (9, 48.7)])
def test_resnet_costs_what_the_issue_says(blocks, expected):
    # A block at 64 x 64 with 256 filters: 2 * 64^2 * 256^2 * 9 = 4.83 GMAC; the rest: 5.24
    with torch.device("meta"):
        network = build_generator(
            "resnet", channels=1, filters=64, blocks=blocks, upsample="deconvolution", skips=False
        )
    assert gmac(network, 1, 1, 256, 256) == pytest.approx(expected, abs=0.06)


# Generators


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("upsample", ["deconvolution", "nearest"])
@pytest.mark.parametrize(
    ("name", "skips"),
    [("resnet", False), ("unet", False), *((n, s) for n in NAMES[1:] for s in (False, True))],
)
def test_output_has_the_size_of_the_input_and_lies_in_the_unit_range(
    name, skips, upsample, channels
):
    network = generator(name, channels=channels, upsample=upsample, skips=skips)
    height, width = network.smallest, network.smallest + network.multiple
    with torch.inference_mode():
        result = network(random_images(2, channels, height, width))
    assert result.shape == (2, channels, height, width)
    assert result.dtype == torch.float32
    assert result.abs().max() <= 1
    assert result.std() > 0


def test_unet_is_clipped_only_where_it_does_not_train():
    network = generator("unet", filters=8)
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
    initialise(network, "uniform", torch_stream(1))
    with torch.no_grad():
        network.head.weight *= 40
        image = random_images(1, 1, 32, 32)
        trained, used = network.train()(image), network.eval()(image)
    assert trained.abs().max() > 1
    torch.testing.assert_close(used, trained.clamp(-1, 1))


def test_unet_works_at_half_the_resolution():
    """One level has 9 (4 + n) n products at each of 32 x 32 blocks of pixels, by hand for n = 8."""
    with torch.device("meta"):
        network = build_generator(
            "unet", channels=1, filters=8, blocks=1, upsample="nearest", skips=False
        )
    n, at = 8, 32 * 32
    down = 9 * n * (4 + n) * at
    down += sum(
        9 * (w * w // 2 + w * w) * at / 4**k for k, w in ((1, 2 * n), (2, 4 * n), (3, 8 * n))
    )
    up = sum(w * w // 2 * at / 4**k for k, w in ((1, 2 * n), (2, 4 * n), (3, 8 * n)))
    up += sum(9 * (2 * w * w + w * w) * at / 4**k for k, w in ((0, n), (1, 2 * n), (2, 4 * n)))
    assert gmac(network, 1, 1, 64, 64) == pytest.approx((down + up + 4 * n * at) / 1e9, rel=1e-6)


@pytest.mark.parametrize(("name", "block"), [("resnet34", BasicBlock), ("resnet50", Bottleneck)])
def test_encoder_has_3_4_6_3_blocks_that_halve_and_widen(name, block):
    network = generator(name, filters=4)
    kinds = [[type(part) for part in stage] for stage in network.stages]
    assert kinds == [[block] * count for count in (3, 4, 6, 3)]
    sizes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        network(random_images(1, 1, 64, 64))
    expansion = 4 if block is Bottleneck else 1
    widths = [4 * expansion * 2**stage for stage in range(4)]
    assert sizes == [(width, side, side) for width, side in zip(widths, (16, 8, 4, 2), strict=True)]


@pytest.mark.parametrize("blocks", [1, 9])
def test_resnet_has_as_many_blocks_as_asked_for_at_a_quarter_of_the_size(blocks):
    network = generator("resnet", blocks=blocks)
    found = [part for part in network.body if type(part).__name__ == "ReflectedBlock"]
    assert len(found) == blocks
    sizes = []
    for part in found:
        part.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    with torch.inference_mode():
        network(random_images(1, 1, 32, 48))
    assert sizes == [(16, 8, 12)] * blocks


@pytest.mark.parametrize("name", NAMES[1:])
def test_skips_let_the_decoder_see_the_encoder(name):
    plain, skipping = generator(name), generator(name, skips=True)
    assert sum(p.numel() for p in skipping.parameters()) > sum(
        p.numel() for p in plain.parameters()
    )
    x = random_images(1, 1, 64, 64)
    with torch.inference_mode():
        before = skipping(x)
        skipping.stages[-1].register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        plain.stages[-1].register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        assert plain(x).std() < 1e-6  # nothing but the deepest map reaches the decoder
        assert skipping(x).std() > 0.1 * before.std() > 0


def test_deepest_map_of_one_pixel_is_why_an_encoder_has_a_smallest_size():
    network = generator("resnet34")
    network(random_images(1, 1, network.smallest, network.smallest))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(random_images(1, 1, network.multiple, network.multiple))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    network = generator(name, skips=name != "resnet")
    network(random_images(2, 1, 64, 64)).square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


# Bias


@pytest.mark.parametrize("upsample", ["deconvolution", "nearest"])
@pytest.mark.parametrize("name", [*NAMES, "discriminator"])
def test_only_a_convolution_without_a_norm_after_it_has_a_bias(name, upsample):
    network = Discriminator(1, 4) if name == "discriminator" else generator(name, upsample=upsample)
    layers = [m for m in network.modules() if isinstance(m, (*CONVOLUTIONS, nn.InstanceNorm2d))]
    normed = [isinstance(after, nn.InstanceNorm2d) for after in [*layers[1:], None]]
    convolutions = [
        (layer, norm)
        for layer, norm in zip(layers, normed, strict=True)
        if isinstance(layer, CONVOLUTIONS)
    ]
    assert all((layer.bias is None) == norm for layer, norm in convolutions)
    free = sum(not norm for _, norm in convolutions)
    assert free == (2 if name == "discriminator" else 1)


# Reflection padding


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 3, 5, 8)])
def test_reflection_pad_is_torchs_bit_for_bit(width, shape):
    x = random_images(*shape)
    assert torch.equal(ReflectionPad(width)(x), nn.ReflectionPad2d(width)(x))


@pytest.mark.parametrize("width", [1, 3])
def test_reflection_pad_has_torchs_gradient(width):
    own = random_images(2, 3, 7, 9).requires_grad_()
    theirs = own.detach().clone().requires_grad_()
    weights = random_images(2, 3, 7 + 2 * width, 9 + 2 * width, seed=1)
    (ReflectionPad(width)(own) * weights).sum().backward()
    (nn.ReflectionPad2d(width)(theirs) * weights).sum().backward()
    assert torch.allclose(own.grad, theirs.grad, atol=1e-6, rtol=0)


# Discriminator


def test_discriminator_scores_patches_of_70_by_70_pixels():
    network = Discriminator(1, 4)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.01)  # no weight cancels another
    without_norms = nn.Sequential(
        *(layer for layer in network.body if not isinstance(layer, nn.InstanceNorm2d))
    )  # a norm sees the whole image
    x = torch.ones(1, 1, 128, 128, requires_grad=True)
    scores = without_norms(x)
    assert scores.shape == (1, 1, 14, 14)
    scores[0, 0, 7, 7].backward()
    rows, columns = (x.grad[0, 0] != 0).nonzero(as_tuple=True)
    assert rows.max() - rows.min() + 1 == 70
    assert columns.max() - columns.min() + 1 == 70
    assert len(rows) == 70 * 70


@pytest.mark.parametrize("side", [32, 40, 64])
def test_discriminator_gives_a_map_of_scores(side):
    network = Discriminator(3, 4)
    initialise(network, "normal", torch_stream(0))
    scores = network(random_images(2, 3, side, side))
    assert scores.shape == (2, 1, side // 8 - 2, side // 8 - 2)
    assert scores.dtype == torch.float32


def test_scores_are_not_bounded():
    network = Discriminator(1, 4)
    initialise(network, "normal", torch_stream(0))
    nn.init.constant_(network.body[-1].bias, 5.0)
    assert network(random_images(1, 1, 32, 32)).mean() > 2


def test_discriminator_of_its_smallest_image_works():
    network = Discriminator(1, 4)
    scores = network(random_images(1, 1, network.smallest, network.smallest))
    assert torch.isfinite(scores).all()
    assert scores.numel() == 4


# Initialisation


def test_normal_initialisation_has_mean_0_and_deviation_0_02_and_no_bias():
    network = generator("resnet", channels=3, filters=16, blocks=3, upsample="deconvolution")
    weights = torch.cat([p.detach().flatten() for p in network.parameters() if p.ndim > 1])
    biases = torch.cat([p for p in network.parameters() if p.ndim == 1])
    error = 0.02 / math.sqrt(len(weights))
    assert abs(weights.mean()) < 4 * error
    assert weights.std() == pytest.approx(0.02, abs=4 * error)
    assert not biases.any()
    for parameter in network.parameters():
        if parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)


def test_uniform_initialisation_spreads_to_one_over_the_root_of_a_units_inputs():
    network = Discriminator(1, 8)
    initialise(network, "uniform", torch_stream(0))
    for layer in network.body:
        if isinstance(layer, nn.Conv2d):
            bound = 1 / math.sqrt(layer.in_channels * 16)
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("method", ["normal", "uniform"])
def test_initialisation_is_a_pure_function_of_its_generator(method):
    first, second, other = Discriminator(1, 4), Discriminator(1, 4), Discriminator(1, 4)
    initialise(first, method, torch_stream(1))
    initialise(second, method, torch_stream(1))
    initialise(other, method, torch_stream(2))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(one, same) for one, same, _ in pairs)
    assert not any(torch.equal(one, changed) for one, _, changed in pairs if one.ndim > 1)


def test_initialisation_replaces_every_value_there_was():
    network = generator("resnet34", skips=True)
    spoilt = copy.deepcopy(network)
    for parameter in spoilt.parameters():
        nn.init.constant_(parameter, float("nan"))
    initialise(spoilt, "normal", torch_stream(0, "resnet34"))
    pairs = zip(network.parameters(), spoilt.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 5, 6, 7), (3, 2, 4, 9)])
def test_instance_norm_is_that_of_torch_with_its_gradient(shape, layout):
    weights = random_images(*shape, seed=1).double()
    found = []
    for norm in (InstanceNorm(shape[1]), nn.InstanceNorm2d(shape[1])):
        x = random_images(*shape).double().to(memory_format=layout).requires_grad_()
        y = norm(x)
        (y * weights).sum().backward()
        found.append((y.detach(), x.grad))
    for own, theirs in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-10, rtol=0)
    assert torch.allclose(found[0][0].mean(dim=(2, 3)), torch.zeros(()).double(), atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_in_bfloat16_rounds_the_result_of_float64_and_its_gradient(layout, monkeypatch):
    types, group_norm = [], nn.functional.group_norm

    def watched(x, *more):
        types.append(x.dtype)
        return group_norm(x, *more)

    monkeypatch.setattr(nn.functional, "group_norm", watched)
    x = (3 * random_images(2, 8, 6, 7) + 1).bfloat16().to(memory_format=layout).requires_grad_()
    weights = random_images(2, 8, 6, 7, seed=1).bfloat16()
    norm = GroupNorm(4, 8)
    answer = norm(x)
    (answer * weights).sum().backward()
    exact = x.detach().double().requires_grad_()
    groups = exact.reshape(2, 4, -1)  # by hand
    spread = (groups.var(dim=2, correction=0, keepdim=True) + norm.eps).sqrt()
    hand = ((groups - groups.mean(dim=2, keepdim=True)) / spread).view(2, 8, 6, 7)
    (hand * weights.double()).sum().backward()
    assert types == [torch.float32]  # which is what is faster
    assert answer.dtype == torch.bfloat16
    assert answer.is_contiguous(memory_format=layout)
    assert norm.weight.grad.dtype == torch.float32
    # Half of the last place of a value between 2 and 4 is 2^-7; both roundings of the gradient are below that.
    assert (answer.double() - hand).abs().max() <= 2**-7
    assert (x.grad.double() - exact.grad).abs().max() <= 2**-7
