import pytest
import torch
from torch.testing import assert_close

from ctmr.cyclegan.cyclegan import CycleGAN, check_size, gaussian_noise
from ctmr.cyclegan.networks import Discriminator
from ctmr.errors import UsageError
from ctmr.system.rng import torch_stream


@pytest.fixture
def model(tiny_config):
    return CycleGAN(tiny_config.network, 1, seed=0)


@pytest.fixture
def images():
    x, y = torch.rand((2, 1, 1, 32, 32), generator=torch_stream(1)) * 2 - 1
    return x, y


def counted(network):
    """The inputs of a network's forward passes."""
    inputs = []
    network.register_forward_hook(lambda _, given, __: inputs.append(given[0].detach()))
    return inputs


def test_six_images_are_those_of_the_paper(model, images):
    x, y = images
    with torch.no_grad():
        made = model(x, y, identity=True)
        assert_close(made.fake_y, model.G(x), atol=1e-5, rtol=0)
        assert_close(made.fake_x, model.F(y), atol=1e-5, rtol=0)
        assert_close(made.cycled_x, model.F(model.G(x)), atol=1e-5, rtol=0)
        assert_close(made.cycled_y, model.G(model.F(y)), atol=1e-5, rtol=0)
        assert_close(made.same_x, model.F(x), atol=1e-5, rtol=0)
        assert_close(made.same_y, model.G(y), atol=1e-5, rtol=0)


def test_identity_images_are_made_only_if_asked_for(model, images):
    x, y = images
    seen_by_g, seen_by_f = counted(model.G), counted(model.F)
    made = model(x, y, identity=False)
    assert made.same_x is None
    assert made.same_y is None
    assert sum(map(len, seen_by_g)) == sum(map(len, seen_by_f)) == 2 * len(x)
    model(x, y, identity=True)
    assert sum(map(len, seen_by_g)) == sum(map(len, seen_by_f)) == 5 * len(x)


def test_noise_is_added_on_the_way_back_only(model, images):
    x, y = images
    noise_y, noise_x = torch.full_like(x, 0.25), torch.full_like(x, -0.5)
    seen_by_g, seen_by_f = counted(model.G), counted(model.F)
    made = model(x, y, identity=True, noise=(noise_y, noise_x))
    assert_close(made.fake_y, model.G(x), atol=1e-5, rtol=0)
    assert any(torch.equal(seen, made.fake_y + 0.25) for seen in seen_by_f)
    assert any(torch.equal(seen, made.fake_x - 0.5) for seen in seen_by_g)
    assert_close(made.same_x, model.F(x), atol=1e-5, rtol=0)


def test_weights_are_a_pure_function_of_the_seed(tiny_config, model):
    torch.manual_seed(99)
    same, other = (CycleGAN(tiny_config.network, 1, seed) for seed in (0, 1))
    for name, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert value.ndim == 1 or not torch.equal(value, other.state_dict()[name])


def test_making_networks_draws_nothing_from_the_global_generator(tiny_config):
    before = torch.get_rng_state()
    CycleGAN(tiny_config.network, 1, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_four_networks_start_with_weights_of_their_own(model):
    for one, other in ((model.G, model.F), (model.D_X, model.D_Y)):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs if a.ndim > 1)


def test_parameters_are_those_of_two_networks_each(model):
    generators, discriminators = model.generator_parameters(), model.discriminator_parameters()
    assert {id(p) for p in generators} == {
        id(p) for n in (model.G, model.F) for p in n.parameters()
    }
    everything = {id(p) for p in model.parameters()}
    assert {id(p) for p in (*generators, *discriminators)} == everything
    assert len(generators) + len(discriminators) == len(everything)


def test_no_noise_is_none():
    assert gaussian_noise(torch.zeros(1, 1, 4, 4), 0.0, 1) is None


def test_noise_is_two_independent_images_of_the_deviation():
    like = torch.zeros(1, 3, 64, 64)
    first, second = gaussian_noise(like, 0.05, 1, 2)
    assert first.shape == second.shape == like.shape
    for noise in (first, second):
        assert noise.std() == pytest.approx(0.05, rel=0.03)
        assert abs(noise.mean()) < 0.002
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05


def test_noise_is_a_pure_function_of_seed_and_step():
    like = torch.zeros(1, 1, 8, 8)
    first, again = (gaussian_noise(like, 0.1, 5, 7)[0] for _ in range(2))
    assert torch.equal(first, again)
    for key in ((5, 8), (6, 7)):
        assert not torch.equal(first, gaussian_noise(like, 0.1, *key)[0])


# Sizes


def sized(tiny_config, generator, size):
    settings = tiny_config.model_dump()
    settings["network"]["generator"], settings["data"]["size"] = generator, size
    return type(tiny_config).model_validate(settings)


@pytest.mark.parametrize(
    ("generator", "size", "fits"),
    [
        ("resnet", 34, 36),
        ("resnet", 254, 256),
        ("resnet34", 32, 64),
        ("resnet34", 72, 96),
        ("resnet50", 100, 128),
        ("unet", 36, 48),
    ],
)
def test_size_that_does_not_fit_the_networks_is_refused_with_one_that_does(
    tiny_config, generator, size, fits
):
    with pytest.raises(
        UsageError, match=rf"data\.size.* {generator} .*{size}.*data\.size={fits}\."
    ):
        check_size(sized(tiny_config, generator, size))
    check_size(sized(tiny_config, generator, fits))


@pytest.mark.parametrize(
    ("generator", "size"),
    [("resnet", 32), ("resnet", 36), ("resnet34", 64), ("resnet50", 96), ("unet", 48)],
)
def test_size_that_fits_goes_through_all_four_networks(tiny_config, generator, size):
    config = sized(tiny_config, generator, size)
    check_size(config)
    assert size >= Discriminator.smallest
    model = CycleGAN(config.network, 1, seed=0)
    x = torch.zeros(1, 1, size, size)
    with torch.inference_mode():
        made = model(x, x, identity=False)
        assert made.cycled_x.shape == x.shape
        assert torch.isfinite(model.D_Y(made.fake_y)).all()
