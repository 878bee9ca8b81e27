"""Features of images by a network with fixed random weights."""

import numpy as np
import pytest

from ctmr.evaluation.metrics.distribution import COUNT, FILTERS, SIDE, features
from ctmr.system.rng import stream
from support.heads import head


def heads(count: int, size: int = 48) -> np.ndarray:
    return np.stack([head(n, "mr", size, size) for n in range(count)]).astype("f4") / 127.5 - 1


def everywhere(images: np.ndarray) -> np.ndarray:
    return np.ones(images.shape, np.bool_)


def test_each_image_has_48_numbers_whatever_its_size() -> None:
    for shape in ((1, 16, 16), (3, 37, 64), (20, 30, 17)):
        found = features(np.zeros(shape, np.float32), np.ones(shape, np.bool_))
        assert found.shape == (shape[0], COUNT) == (shape[0], 48)


def test_air_has_no_features() -> None:
    image = np.full((1, 32, 32), -1, np.float32)
    assert not features(image, everywhere(image)).any()


def test_first_features_of_a_flat_image_by_hand() -> None:
    # On a flat image of 1, which is 2 above air, a filter gives twice the sum of its weights, where that is positive.
    drawn = stream("features", 0).standard_normal((FILTERS, SIDE * SIDE))
    sums = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).sum(axis=1)
    image = np.ones((1, 20, 20), np.float32)
    found = features(image, everywhere(image))[0]
    assert found[:FILTERS] == pytest.approx(np.maximum(2 * sums, 0), abs=1e-5)
    assert found[FILTERS : 2 * FILTERS] == pytest.approx(0, abs=1e-4)


def test_what_lies_outside_the_head_does_not_matter() -> None:
    images = heads(2)
    masks = everywhere(images)
    masks[:, :9] = False
    other = images.copy()
    other[:, :9] = 0.7
    assert np.array_equal(features(images, masks), features(other, masks))
    assert not np.allclose(features(images, masks), features(other, everywhere(images)))


def test_features_are_of_the_image_alone_and_not_of_those_beside_it() -> None:
    images = heads(19)  # more than are looked at together
    together = features(images, everywhere(images))
    alone = np.concatenate([features(i[None], everywhere(i[None])) for i in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_shapes_that_differ_and_empty_masks_are_refused() -> None:
    images = heads(2)
    with pytest.raises(ValueError, match=r"must be \(N, H, W\): got"):
        features(images, everywhere(images)[:1])
    with pytest.raises(ValueError, match=r"must be \(N, H, W\): got"):
        features(images[0], everywhere(images)[0])
    masks = everywhere(images)
    masks[1] = False
    with pytest.raises(ValueError, match="masks must not be empty"):
        features(images, masks)
