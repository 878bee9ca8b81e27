import numpy as np
import pytest
import torch

from ctmr.cyclegan.image_buffer import History
from ctmr.system.rng import stream


def fakes(*values):
    """(B, 1, 2, 2) images of one value each."""
    return torch.stack([torch.full((1, 2, 2), float(value)) for value in values])


def values(images):
    return [image[0, 0, 0].item() for image in images]


def test_capacity_zero_shows_the_newest_and_keeps_nothing():
    history, rng = History(0), stream(0)
    for n in range(5):
        assert values(history(fakes(n, n + 0.5), rng)) == [n, n + 0.5]
    assert history.images == []
    assert rng.random() == stream(0).random()  # nothing was drawn


def test_buffer_that_is_not_full_shows_the_newest_and_keeps_it():
    history, rng = History(3), stream(0)
    assert values(history(fakes(1, 2), rng)) == [1, 2]
    assert values(history.images) == [1, 2]
    assert values(history(fakes(3), rng)) == [3]
    assert values(history.images) == [1, 2, 3]
    assert rng.random() == stream(0).random()


def test_full_buffer_shows_the_newest_or_exchanges_it_for_a_stored_one():
    history, rng = History(3), stream(0)
    history(fakes(0, 1, 2), rng)
    seen_earlier = 0
    for n in range(3, 50):
        before = values(history.images)
        (shown,) = values(history(fakes(n), rng))
        after = values(history.images)
        if shown == n:
            assert after == before
        else:
            place = before.index(shown)
            assert after == [*before[:place], n, *before[place + 1 :]]
            seen_earlier += 1
    assert 0 < seen_earlier < 47


def test_about_half_are_exchanged_and_every_place_is_used():
    history, rng = History(10), stream(1)
    history(fakes(*range(10)), rng)
    exchanged = 0
    places = set()
    for n in range(10, 1010):
        before = values(history.images)
        exchanged += values(history(fakes(n), rng)) != [n]
        places |= {i for i, value in enumerate(history.images) if values([value]) != [before[i]]}
    assert exchanged == pytest.approx(
        500, abs=4 * np.sqrt(250)
    )  # four deviations of Binomial(1000, 1/2)
    assert places == set(range(10))


def test_same_draws_give_the_same_history():
    def shown():
        history = History(2)
        return [values(history(fakes(n), stream(5, n))) for n in range(40)], values(history.images)

    assert shown() == shown()


def test_batch_is_shown_image_by_image():
    history, rng = History(2), stream(0)
    result = history(fakes(1, 2, 3, 4), rng)
    assert result.shape == (4, 1, 2, 2)
    assert values(result[:2]) == [1, 2]
    assert len(history.images) == 2


def test_gradients_do_not_pass():
    history, rng = History(1), stream(0)
    source = torch.ones(3, 1, 2, 2, requires_grad=True)
    result = history(source * 2, rng)
    assert not result.requires_grad
    assert not any(image.requires_grad for image in history.images)


def test_stored_fake_is_a_copy():
    history, rng = History(1), stream(0)
    source = fakes(1)
    history(source, rng)
    source.fill_(9)
    assert values(history.images) == [1]
