"""The structure term: what it takes for the same anatomy, and what not."""

import math

import torch

from ctmr.cyclegan.mind import DISTANCE, FLOOR, NEIGHBOURS, descriptor, structure


def disk(radius: float, inside: float, outside: float, size: int = 32) -> torch.Tensor:
    """An image (1, 1, size, size) of a disk."""
    axis = torch.arange(size) - (size - 1) / 2
    away = torch.hypot(axis[:, None], axis[None, :])
    return torch.where(away < radius, inside, outside)[None, None]


def test_a_constant_image_is_like_its_neighbourhood_everywhere() -> None:
    found = descriptor(torch.full((2, 1, 16, 16), 0.3))
    assert found.shape == (2, len(NEIGHBOURS), 16, 16)
    assert torch.equal(found, torch.ones_like(found))


def test_descriptor_of_one_bright_pixel_by_hand() -> None:
    # A pixel of 1 on 0. For the centre, each neighbour r: the 3x3 patch of squared differences to the image shifted
    # by r holds the pixel itself only (its copy lies two pixels away): D = 1/9 for all eight r, so V = 1/9 too and
    # MIND = exp(-1) in every channel.
    image = torch.zeros(1, 1, 15, 15)
    image[0, 0, 7, 7] = 1.0
    assert DISTANCE == 2
    assert FLOOR < 1 / 9
    found = descriptor(image)[0, :, 7, 7]
    assert torch.allclose(found, torch.full((8,), math.exp(-1)), atol=1e-6)


def test_descriptor_below_the_floor_by_hand() -> None:
    # The same pixel of 0.1: D = 0.01 / 9, less than the floor, which then scales it: exp(-(0.01 / 9) / FLOOR).
    image = torch.zeros(1, 1, 15, 15)
    image[0, 0, 7, 7] = 0.1
    found = descriptor(image)[0, :, 7, 7]
    assert torch.allclose(found, torch.full((8,), math.exp(-(0.01 / 9) / FLOOR)), atol=1e-6)


def test_grey_values_may_be_inverted_but_edges_may_not_move() -> None:
    image, inverted = disk(9, 0.8, -0.9), disk(9, -0.9, 0.8)
    moved = disk(12, -0.9, 0.8)
    assert structure(image, inverted, image, inverted) < 1e-6
    assert structure(image, moved, image, moved) > 0.1


def test_both_directions_count_and_gradients_reach_the_translations_only() -> None:
    x, y = disk(9, 0.8, -0.9), disk(7, 0.5, -0.9)
    fake_y, fake_x = disk(11, 0.1, -0.9), y.clone()
    half = structure(x, fake_y, y, fake_x)
    whole = structure(x, fake_y, y, disk(9, 0.5, -0.9))
    assert 0 < half < whole
    x.requires_grad_(True)
    fake_y.requires_grad_(True)
    torch.autograd.backward(structure(x, fake_y, y, fake_x))
    assert x.grad is None
    assert fake_y.grad is not None
    assert fake_y.grad.abs().sum() > 0


def test_colour_images_are_seen_in_grey() -> None:
    image = disk(9, 0.8, -0.9)
    assert torch.allclose(descriptor(image), descriptor(image.expand(-1, 3, -1, -1)))
