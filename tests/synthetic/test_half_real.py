import numpy as np
import pytest

from ctmr.synthetic import half_real
from ctmr.synthetic.anatomies import CODE
from ctmr.synthetic.half_real import rendered_mr

SIDE = 160


def head_hu(seed: int = 0) -> np.ndarray:
    """A round CT slice of 1 mm: scalp with fat, skull, brain with a ventricle, a table below."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
    radius = np.sqrt(x * x + y * y)
    hu = np.full((SIDE, SIDE), -1000, np.float32)
    for outer, value in ((70, 30), (68, -95), (62, 1200), (55, 34)):
        hu[radius < outer] = value
    hu[np.sqrt((x - 10) ** 2 + y * y) < 9] = 5
    hu[(y > 74) & (y < 76)] = 300
    return hu + np.random.default_rng(seed).normal(0, 5, hu.shape).astype(np.float32)


@pytest.fixture
def parts() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
    radius = np.sqrt(x * x + y * y)
    return {
        "skull": (radius > 56.5) & (radius < 60.5),
        "brain": (radius < 50) & (np.sqrt((x - 10) ** 2 + y * y) > 14),
        "ventricle": np.sqrt((x - 10) ** 2 + y * y) < 5,
        "fat": (radius > 64.5) & (radius < 65.5),
        "table": (y > 74) & (y < 76),
    }


def test_mr_depends_on_its_key_alone():
    one, again, other = (rendered_mr(head_hu(), 1.0, 3, n)[0] for n in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (SIDE, SIDE)
    assert one.min() >= 0
    assert np.isfinite(one).all()


def test_mr_of_every_contrast_shows_what_the_ct_shows(parts):
    """Bone is dark, the table is not there, and the ventricle differs from brain in most contrasts."""
    differs = 0
    for n in range(30):
        mr, head = rendered_mr(head_hu(), 1.0, 5, n)
        assert not head[parts["table"]].any()
        assert head[parts["brain"] | parts["fat"]].all()
        level = {name: float(np.median(mr[where])) for name, where in parts.items()}
        assert level["skull"] < 0.6 * max(level["brain"], level["fat"], level["ventricle"])
        assert level["table"] < 0.3 * max(level.values())
        differs += abs(level["ventricle"] - level["brain"]) > 0.1 * max(level.values())
    assert differs >= 20


def test_tissues_follow_hu(parts):
    rng = np.random.default_rng(0)
    hu = head_hu()
    tissue = half_real._tissues(rng, hu, half_real._head(hu, -350), 1.0)
    assert np.isin(tissue[parts["skull"]], (CODE["cortical bone"], CODE["diploe"])).mean() > 0.95
    inside = np.isin(tissue[parts["brain"]], (CODE["grey matter"], CODE["white matter"]))
    assert inside.mean() > 0.9
    assert (tissue[parts["ventricle"]] == CODE["csf"]).mean() > 0.8
    assert (tissue[parts["fat"]] == CODE["fat"]).mean() > 0.9
    assert (tissue[parts["table"]] == CODE["air"]).all()


def test_window_that_hides_fat_gets_a_scalp(parts):
    """In 0 to 80 HU fat is as black as air: an MR of that head has a scalp all the same."""
    mr = [rendered_mr(head_hu().clip(0, 80), 1.0, 7, n, low_hu=0.0)[0] for n in range(12)]
    scalps = [float(np.median(image[parts["fat"]])) / float(image.max()) for image in mr]
    assert np.median(scalps) > 0.15


def test_slice_without_a_head_is_dark():
    mr, head = rendered_mr(np.full((64, 64), -1000, np.float32), 1.0, 0)
    assert not head.any()
    assert mr.shape == (64, 64)
    assert np.isfinite(mr).all()
