"""Equations (1) to (5) of Li 2023 with numbers worked by hand."""

import pytest
import torch

from ctmr.cyclegan import losses


def image(*rows):
    """A (1, 1, H, W) tensor."""
    return torch.tensor([[rows]], dtype=torch.float32)


def test_equation_1_of_one_score_each():
    # 1/2 { (3 - 1)^2 + (0.5 - 1)^2 } = (4 + 0.25) / 2 = 2.125
    assert losses.adversarial(image([3.0]), image([0.5])).item() == 2.125


def test_equation_1_is_the_mean_over_scores():
    # D_Y(G(x)) - 1: -1, 1, 0, 2, squares 1, 1, 0, 4, mean 1.5;  D_X(F(y)) - 1: 0, -2, mean of squares 2
    # 1/2 (1.5 + 2) = 1.75: each mean counts the same, whatever its number of scores
    assert losses.adversarial(image([0, 2], [1, 3]), image([1, -1])).item() == 1.75


def test_equation_1_is_zero_for_fakes_taken_for_real():
    assert losses.adversarial(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 3, 3)).item() == 0


def test_equation_2_of_one_pixel_each():
    # |0.5 - 1| + |-0.25 - 0.5| = 0.5 + 0.75 = 1.25
    pixels = (0.5, 1.0, -0.25, 0.5)
    assert losses.cycle(*(image([pixel]) for pixel in pixels)).item() == 1.25


def test_equation_2_is_the_mean_over_pixels_not_their_sum():
    # |cycled_x - x|: 1, 0, 0.5, 0.5, mean 0.5;  |cycled_y - y|: 0.25, 0.75, mean 0.5;  sum of both 1
    cycled_x, x = image([1, 1], [0.5, -0.5]), image([0, 1], [0, 0])
    cycled_y, y = image([0.25, -0.75]), image([0, 0])
    assert losses.cycle(cycled_x, x, cycled_y, y).item() == 1.0


def test_equation_2_is_the_mean_over_batch_and_channels():
    # x: two images of two channels of one pixel, differences 1, 0, 0, 3, mean 1;  y: no difference
    x = torch.zeros(2, 2, 1, 1)
    cycled_x = torch.tensor([1.0, 0.0, 0.0, -3.0]).reshape(2, 2, 1, 1)
    assert losses.cycle(cycled_x, x, x, x).item() == 1.0


def test_equation_3_of_one_pixel_each():
    # |F(x) - x| + |G(y) - y| = |0 - 0.5| + |1 - (-1)| = 2.5
    pixels = (0.0, 0.5, 1.0, -1.0)
    assert losses.identity(*(image([pixel]) for pixel in pixels)).item() == 2.5


def test_equation_3_is_the_mean_over_pixels():
    # |same_x - x|: 0.5, 1.5, mean 1;  |same_y - y|: 0, 0, 0, 1, mean 0.25;  sum of both 1.25
    same_x, x = image([0.5, -1.5]), image([0, 0])
    same_y, y = image([1, 0], [0, 1]), image([1, 0], [0, 0])
    assert losses.identity(same_x, x, same_y, y).item() == 1.25


def test_equation_4_with_the_papers_weights():
    # 0.5 + 4 * 0.25 + 8 * 0.125 = 0.5 + 1 + 1 = 2.5
    parts = (torch.tensor(value) for value in (0.5, 0.25, 0.125))
    assert losses.generator(*parts, cycle_weight=4, identity_weight=8).item() == 2.5


@pytest.mark.parametrize(
    ("cycle_weight", "identity_weight", "expected"),
    [
        (
            0,
            8,
            1.5,
        ),  # 0.5 + 0 + 8 * 0.125: the identity weight is not multiplied by the cycle weight
        (4, 0, 1.5),  # 0.5 + 4 * 0.25 + 0
        (10, 8, 4.0),  # 0.5 + 10 * 0.25 + 8 * 0.125: the last term is what it was with weight 4
        (0, 0, 0.5),
    ],
)
def test_equation_4_weights_are_not_multiplied_with_each_other(
    cycle_weight, identity_weight, expected
):
    parts = (torch.tensor(value) for value in (0.5, 0.25, 0.125))
    total = losses.generator(*parts, cycle_weight=cycle_weight, identity_weight=identity_weight)
    assert total.item() == expected


def test_equation_4_has_the_gradient_of_each_weight():
    parts = [torch.tensor(value, requires_grad=True) for value in (0.5, 0.25, 0.125)]
    losses.generator(*parts, cycle_weight=4, identity_weight=8).backward()
    assert [part.grad.item() for part in parts] == [1, 4, 8]


def test_equation_5_of_one_score_each():
    # 1/2 { (0.5 - 1)^2 + 2^2 } = (0.25 + 4) / 2 = 2.125
    assert losses.discriminator(image([0.5]), image([2.0])).item() == 2.125


def test_equation_5_is_the_mean_over_scores():
    # D(y) - 1: -1, 1, squares 1, 1, mean 1;  D(G(x)): 1, 2, 0, 1, squares 1, 4, 0, 1, mean 1.5
    # 1/2 (1 + 1.5) = 1.25
    assert losses.discriminator(image([0, 2]), image([1, 2], [0, -1])).item() == 1.25


def test_equation_5_is_zero_for_a_discriminator_that_is_right():
    assert losses.discriminator(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 0
