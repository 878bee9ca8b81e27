"""Regions of masks, by those of scipy.ndimage."""

import numpy as np
import pytest
from scipy import ndimage

from ctmr.imaging.regions import filled, joined_to, label, largest


def masks():
    """Of one to three axes, from nearly empty to nearly full, and empty and full ones."""
    rng = np.random.default_rng(1)
    for _ in range(150):
        shape = tuple(rng.integers(1, 12, rng.integers(1, 4)))
        yield rng.random(shape) < rng.uniform()
    for full in (False, True):
        yield np.full((4, 5, 6), full)


def test_labels_are_those_of_scipy():
    for mask in masks():
        labels, count = label(mask)
        known, number = ndimage.label(mask)
        assert count == number
        assert np.array_equal(labels, known)


def test_holes_are_those_of_scipy():
    for mask in masks():
        assert np.array_equal(filled(mask), ndimage.binary_fill_holes(mask))


def test_the_first_of_the_largest_regions_is_kept():
    mask = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]], bool)
    assert np.array_equal(np.argwhere(largest(mask)), [[0, 2], [0, 3]])


def test_what_is_joined_to_a_seed_is_kept_and_a_seed_outside_counts_for_nothing():
    mask = np.array([[1, 1, 0, 1]], bool)
    for place, kept in ((0, [0, 1]), (2, []), (3, [3])):
        seeds = np.zeros_like(mask)
        seeds[0, place] = True
        assert list(np.flatnonzero(joined_to(mask, seeds))) == kept


@pytest.mark.parametrize("size", [60, 200])
def test_a_spiral_is_one_region(size):
    mask = np.zeros((size, size), bool)
    low, high = 0, size - 1
    while low < high:  # arms with one pixel between them
        mask[low, max(0, low - 2) : high + 1] = mask[low : high + 1, high] = True
        mask[high, low : high + 1] = mask[low + 2 : high + 1, low] = True
        low, high = low + 2, high - 2
    assert label(mask)[1] == ndimage.label(mask)[1]
