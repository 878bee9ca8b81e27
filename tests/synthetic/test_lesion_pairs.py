"""Heads with and without lesions: the same but for the lesions, which lie where they are said to lie."""

import itertools
import math

import numpy as np
import pytest

from ctmr.synthetic.data_folder import HEIGHTS_MM
from ctmr.synthetic.lesion_pairs import LesionPair, make_lesion_pairs
from ctmr.synthetic.lesions import LESIONS
from ctmr.synthetic.tissues import LABELS

SIZE = 64
HEIGHTS = (120.0, 60.0)


@pytest.fixture(scope="module")
def pairs() -> list[LesionPair]:
    found = make_lesion_pairs(2, 5, SIZE, sequence="t1", heights_mm=HEIGHTS, slice_mm=5.0)
    return list(found)


def test_each_head_has_one_lesion_of_each_kind_and_its_healthy_copy_has_none(
    pairs: list[LesionPair],
) -> None:
    sick = [LABELS.index(name) for name in (*LESIONS, "oedema")]
    for pair in pairs:
        assert tuple(lesion.kind for lesion in pair.ill.lesions) == LESIONS
        assert pair.healthy.lesions == ()
        assert not np.isin(pair.healthy.labels, sick).any()


def test_the_planes_go_through_the_centres_of_the_lesions(pairs: list[LesionPair]) -> None:
    for pair in pairs:
        assert pair.ill.labels.shape == (SIZE, SIZE, len(HEIGHTS) + len(LESIONS))
        for lesion, k in zip(pair.ill.lesions, pair.planes, strict=True):
            voxels = np.argwhere(pair.ill.labels[:, :, k] == LABELS.index(lesion.kind))
            centre = pair.ill.affine[:2, :2] @ voxels.mean(axis=0) + pair.ill.affine[:2, 3]
            assert math.dist(centre, lesion.centre_mm[:2]) < 0.5 * lesion.radius_mm + 1.0


def test_pairs_are_the_same_to_the_bit_away_from_the_lesions(pairs: list[LesionPair]) -> None:
    for ill, healthy, _ in pairs:
        assert np.array_equal(ill.affine, healthy.affine)
        assert not np.array_equal(ill.ct, healthy.ct)
        x = ill.affine[0, 0] * np.arange(SIZE) + ill.affine[0, 3]
        y = ill.affine[1, 1] * np.arange(SIZE) + ill.affine[1, 3]
        away = np.ones((SIZE, SIZE), np.bool_)
        for lesion in ill.lesions:  # with oedema, and with the blur of both scanners
            across = np.hypot(x[:, None] - lesion.centre_mm[0], y - lesion.centre_mm[1])
            away &= across > 2.5 * lesion.radius_mm + 10
        assert away.mean() > 0.3
        assert np.array_equal(ill.ct[away], healthy.ct[away])
        assert np.array_equal(ill.mr[away], healthy.mr[away])


def test_lesions_lie_apart_and_at_heights_that_models_are_trained_on(
    pairs: list[LesionPair],
) -> None:
    for pair in pairs:
        for a, b in itertools.combinations(pair.ill.lesions, 2):
            assert math.dist(a.centre_mm, b.centre_mm) > a.radius_mm + b.radius_mm
        z = [lesion.centre_mm[2] for lesion in pair.ill.lesions]
        assert max(z) - min(z) <= max(HEIGHTS_MM) - min(HEIGHTS_MM)


def test_a_head_does_not_depend_on_how_many_are_made(pairs: list[LesionPair]) -> None:
    (first,) = make_lesion_pairs(1, 5, SIZE, sequence="t1", heights_mm=HEIGHTS, slice_mm=5.0)
    assert np.array_equal(first.ill.ct, pairs[0].ill.ct)
    assert not np.array_equal(pairs[0].ill.ct, pairs[1].ill.ct)
