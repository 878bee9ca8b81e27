"""The two tests of lesions on small arrays: by hand, at their limits, and for the ways a model can go wrong."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from ctmr.evaluation.metrics.lesions import (
    Spread,
    Zones,
    can_tell,
    contrast_to_noise,
    invented,
    spread,
    survives,
    zones,
)
from ctmr.reporting.evaluation_section import lesion_rows
from ctmr.results import Lesions
from ctmr.synthetic.tissues import LABELS

SIDE = 100
PIXEL_MM2 = 1.0
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - SIDE // 2
RADIUS = np.hypot(ROWS, COLUMNS)


def head(*parts: tuple[str, float]) -> np.ndarray:
    """Labels of round parts about the middle, each within a radius in mm, later ones on top."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for name, radius in (("cortical bone", 47), ("dura", 42), ("csf", 41), ("white matter", 38)):
        labels[radius > RADIUS] = LABELS.index(name)
    for name, radius in parts:
        labels[radius > RADIUS] = LABELS.index(name)
    return labels


def look(
    labels: np.ndarray,
    kind: str = "infarct",
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    **changed: np.ndarray,
) -> Zones:
    """The zones of such a slice, whose CT shows soft tissue at 30 HU inside the dura and bone outside."""
    healthy_ct = np.where(labels < LABELS.index("dura"), 1000, 30).astype(np.float32)
    cts = {"ct": healthy_ct, "healthy_ct": healthy_ct} | changed
    return zones(labels, kind, spacing_mm, ct=cts["ct"], healthy_ct=cts["healthy_ct"])


def drawn(at: Zones, lesion: float, noise: float = 2.0, level: float = 30.0) -> np.ndarray:
    """An image with that contrast in the lesion; the surround alternates by the noise about the level."""
    image = level + noise * (-1.0) ** np.cumsum(at.surround).reshape(at.surround.shape)
    image[at.lesion] = level + lesion
    return image.astype(np.float32)


def first(mask: np.ndarray, count: int) -> np.ndarray:
    """Only the first pixels of a mask."""
    return mask & (np.cumsum(mask).reshape(mask.shape) <= count)


@pytest.fixture(scope="module")
def at() -> Zones:
    return look(head(("infarct", 6)))


# -- where one looks ---------------------------------------------------------------------------


def test_the_brain_begins_10_mm_inside_the_dura(at: Zones) -> None:
    assert RADIUS[at.brain].max() == pytest.approx(42 - 10, abs=0.8)
    assert at.brain.sum() == pytest.approx(math.pi * 32**2, rel=0.02)


def test_the_surround_is_a_ring_of_2_to_12_mm_about_the_lesion(at: Zones) -> None:
    assert RADIUS[at.lesion].max() < 6
    assert RADIUS[at.surround].min() == pytest.approx(8, abs=0.8)
    assert RADIUS[at.surround].max() == pytest.approx(18, abs=0.8)
    assert RADIUS[at.elsewhere].min() == pytest.approx(11, abs=0.8)


def test_distances_are_in_mm_not_in_pixels() -> None:
    coarse = look(head(("infarct", 6)), spacing_mm=(2.0, 2.0))
    assert RADIUS[coarse.brain].max() == pytest.approx(42 - 5, abs=0.8)
    assert RADIUS[coarse.surround].max() == pytest.approx(6 + 6, abs=0.8)


def test_the_surround_of_a_tumour_begins_beyond_its_oedema() -> None:
    at = look(head(("oedema", 12), ("tumour", 6)), "tumour")
    assert RADIUS[at.lesion].max() < 6
    assert RADIUS[at.surround].min() == pytest.approx(14, abs=0.8)
    assert RADIUS[at.surround].max() == pytest.approx(24, abs=0.8)


def test_another_lesion_is_no_part_of_the_surround_and_nothing_counts_as_invented_near_it() -> None:
    labels = head(("infarct", 6))
    other = np.hypot(ROWS, COLUMNS - 15) < 4
    labels[other] = LABELS.index("bleed")
    at = look(labels)
    from_other = np.hypot(ROWS, COLUMNS - 15)
    assert not at.lesion[other].any()
    assert from_other[at.surround].min() > 5
    assert from_other[at.elsewhere].min() > 8


def test_bone_between_parts_of_the_brain_is_not_brain() -> None:
    at = look(head(("cortical bone", 12)))
    assert RADIUS[at.brain].min() > 20


def test_where_a_thick_slice_has_bone_or_air_is_no_brain() -> None:
    for hu in (101, -51):
        ct = np.where(RADIUS < 12, hu, 30).astype(np.float32)
        at = look(head(), ct=ct, healthy_ct=ct)
        assert RADIUS[at.brain].min() > 20


def test_where_a_thick_slice_has_some_of_a_lesion_nothing_counts_as_invented() -> None:
    labels = head(("infarct", 6))
    healthy_ct = np.full((SIDE, SIDE), 30, np.float32)
    other = np.hypot(ROWS, COLUMNS - 15)
    ct = healthy_ct + 1.1 * (other < 4).astype(np.float32)
    at = look(labels, ct=ct, healthy_ct=healthy_ct)
    assert other[at.surround].min() > 5
    assert other[at.elsewhere].min() > 8


def test_csf_and_ventricles_are_no_surround() -> None:
    at = look(head(("ventricle", 14), ("infarct", 6)))
    assert RADIUS[at.surround].min() >= 14


# -- does it survive ---------------------------------------------------------------------------


def test_contrast_to_noise_by_hand() -> None:
    # lesion 10 and 12; surround 4, 8, 4, 8: (11 - 6) / 2 = 2.5, and 1.25 where noise counts as 4
    image = np.array([[10, 12, 4, 8, 4, 8]], np.float32)
    lesion = np.array([[1, 1, 0, 0, 0, 0]], bool)
    at = Zones(lesion | ~lesion, lesion, ~lesion, ~lesion)
    assert contrast_to_noise(image, at) == 2.5
    assert contrast_to_noise(image, at, min_noise=4.0) == 1.25
    assert contrast_to_noise(-image, at) == -2.5


def test_contrast_without_any_noise_is_infinite_and_no_contrast_is_none(at: Zones) -> None:
    assert contrast_to_noise(drawn(at, -1, noise=0), at) == -math.inf
    assert contrast_to_noise(drawn(at, 0, noise=0), at) == 0


@pytest.mark.parametrize(("lesion", "stays"), [(-12, True), (-6, True), (-5.9, False), (0, False)])
def test_half_of_the_contrast_is_enough(at: Zones, lesion: float, stays: bool) -> None:
    assert survives(drawn(at, lesion), drawn(at, -12), at) is stays


def test_a_lesion_of_the_contrary_contrast_does_not_survive(at: Zones) -> None:
    assert not survives(drawn(at, 12), drawn(at, -12), at)


def test_a_smooth_image_gains_nothing_by_its_smoothness(at: Zones) -> None:
    faint = drawn(at, -1, noise=0.1)
    assert contrast_to_noise(faint, at) == pytest.approx(-10, rel=0.01)
    assert not survives(faint, drawn(at, -12), at)


def test_a_lesion_that_drowns_in_noise_does_not_survive(at: Zones) -> None:
    assert survives(drawn(at, -12, noise=3.9), drawn(at, -12), at)
    assert not survives(drawn(at, -12, noise=4.1), drawn(at, -12), at)


def test_units_do_not_matter(at: Zones) -> None:
    truth = drawn(at, -12)
    for result in (truth, drawn(at, -5)):
        stays = survives(result, truth, at)
        assert survives(7 * result - 1000, 7 * truth - 1000, at) is stays


def test_a_lesion_that_the_truth_does_not_show_cannot_be_told(at: Zones) -> None:
    healthy = drawn(at, 0)
    assert can_tell(drawn(at, -2.1), healthy, at, PIXEL_MM2)
    assert not can_tell(drawn(at, -1.9), healthy, at, PIXEL_MM2)


def test_a_lesion_where_the_healthy_head_looks_the_same_cannot_be_told(at: Zones) -> None:
    truth = drawn(at, -12)
    assert can_tell(truth, drawn(at, -5), at, PIXEL_MM2)
    assert not can_tell(truth, drawn(at, -7), at, PIXEL_MM2)


def test_a_lesion_of_less_than_10_mm2_or_without_100_mm2_around_cannot_be_told(at: Zones) -> None:
    truth, healthy = drawn(at, -12), drawn(at, 0)
    small = at._replace(lesion=first(at.lesion, 10))
    thin = at._replace(surround=first(at.surround, 100))
    for few in (small, thin):
        assert can_tell(truth, healthy, few, 1.0)
        assert not can_tell(truth, healthy, few, 0.99)


# -- is something invented ---------------------------------------------------------------------

UNIT = Spread(0.0, 1.0)
EVERYWHERE = np.ones((SIDE, SIDE), np.bool_)


def blob(rows: int, columns: int, value: float = 3.5) -> np.ndarray:
    error = np.zeros((SIDE, SIDE), np.float32)
    error[40 : 40 + rows, 40 : 40 + columns] = value
    return error


def test_spread_by_hand() -> None:
    found = spread([np.array([1, 3], np.float32), np.array([5, 7], np.float32)])
    assert found == Spread(4.0, math.sqrt(5))


def test_a_blob_of_20_mm2_beyond_3_deviations_is_invented() -> None:
    assert invented(blob(4, 5), EVERYWHERE, UNIT, PIXEL_MM2)
    assert invented(blob(4, 5, -3.5), EVERYWHERE, UNIT, PIXEL_MM2)
    assert not invented(blob(1, 19), EVERYWHERE, UNIT, PIXEL_MM2)
    assert not invented(blob(4, 5, 2.9), EVERYWHERE, UNIT, PIXEL_MM2)
    assert invented(blob(2, 3), EVERYWHERE, UNIT, 4.0)


def test_the_mean_of_healthy_heads_is_no_invention() -> None:
    everywhere_5 = np.full((SIDE, SIDE), 5, np.float32)
    assert not invented(everywhere_5, EVERYWHERE, Spread(5.0, 1.0), PIXEL_MM2)
    assert invented(everywhere_5, EVERYWHERE, UNIT, PIXEL_MM2)


def test_parts_that_touch_at_corners_are_one_blob_and_parts_of_two_signs_are_not() -> None:
    diagonal = 3.5 * np.eye(SIDE, dtype=np.float32)
    assert invented(diagonal, EVERYWHERE, UNIT, PIXEL_MM2)
    diagonal[::2] *= -1
    assert not invented(diagonal, EVERYWHERE, UNIT, PIXEL_MM2)


def test_outside_the_mask_nothing_is_invented() -> None:
    assert not invented(blob(4, 5), blob(4, 5) == 0, UNIT, PIXEL_MM2)
    assert not invented(blob(4, 5), EVERYWHERE & (COLUMNS > -7), UNIT, PIXEL_MM2)


def test_the_truth_itself_invents_nothing() -> None:
    zero = np.zeros((SIDE, SIDE), np.float32)
    assert not invented(zero, EVERYWHERE, Spread(0.0, 0.0), PIXEL_MM2)


def test_noise_alone_is_hardly_ever_a_blob() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, SIDE, SIDE)).astype(np.float32)
    assert not any(invented(error, EVERYWHERE, UNIT, 3.0) for error in noise)


# -- the table ---------------------------------------------------------------------------------


def test_the_table_by_hand() -> None:
    def share(successes: int, n: int) -> dict[str, Any]:
        return {
            "share": successes / n if n else None,
            "n": n,
            "ci95": [0.104, 0.896] if n else None,
        }

    each = {
        "survives": share(0, 0),
        "invented": share(1, 2),
        "detectable": share(2, 3),
        "healthy": {"survives": share(0, 0), "invented": share(0, 2)},
        "truth": {"survives": share(0, 0), "invented": share(0, 2)},
    }
    direction = {"unit": "HU", "limit": 40.0, "lesions": {"bleed": each}}
    found = {
        "heads": 3,
        "seed": 0,
        "sequence": "t1",
        "what": "",
        "directions": {"mr-to-ct": direction},
    }
    assert lesion_rows(TypeAdapter(Lesions).validate_python(found))[1] == [
        (
            "mr-to-ct",
            "bleed",
            "n = 0",
            "n = 0",
            "50 % [10, 90] of 2",
            "0 % [10, 90] of 2",
            "67 % [10, 90] of 3",
            "-, 0 %",
        )
    ]
