import numpy as np
import pytest

from ctmr.imaging.descriptors import describe, outlined, shrunk
from support.pictures import slices


def disk(centre=(64, 64), radius=48, rim=255.0, inside=100.0, thick=10, air=0.0):
    """A disk of one grey with a brighter rim, 128 x 128."""
    rows, columns = np.mgrid[:128, :128]
    away = np.hypot(rows - centre[0], columns - centre[1])
    picture = np.full((128, 128), air, np.float32)
    picture[away <= radius] = rim
    picture[away <= radius - thick] = inside
    return picture


def descriptors(picture):
    return describe(outlined(picture))


def test_descriptors_of_a_disk_are_those_worked_by_hand():
    found = descriptors(disk())
    assert found.rim == found.rim_low == 1
    assert found.rim_spread == 0
    assert found.level == pytest.approx(100 / 255, abs=0.01)
    assert found.rim_over == pytest.approx(1 - 100 / 255, abs=0.01)
    ring = 1 - (38 / 48) ** 2
    assert found.full == pytest.approx(ring, abs=0.03)
    assert found.near == pytest.approx(ring, abs=0.03)
    assert found.black == found.middle == found.spread == found.edges == 0
    assert found.symmetry == pytest.approx(1)
    assert found.solid == pytest.approx(np.pi / 4, abs=0.02)
    assert found.tall == 1
    assert (found.cut_below, found.cut_above, found.lopsided) == (0, 0, 0)


def test_dark_skull_beneath_bright_scalp_tells_mr_from_ct():
    mr = disk(thick=4, rim=200.0, inside=120.0)
    rows, columns = np.mgrid[:128, :128]
    away = np.hypot(rows - 64, columns - 64)
    mr[(away <= 44) & (away > 38)] = 20
    found = descriptors(mr)
    assert found.dip < -0.3
    assert found.beneath < 0
    assert descriptors(disk()).dip == pytest.approx(0, abs=0.01)


def test_descriptors_do_not_depend_on_scale_of_grey_or_margin():
    picture = disk(air=4.0)
    brighter = descriptors(3 * picture + 7)
    moved = descriptors(np.roll(picture, (8, -12), (0, 1)))
    for name, value in descriptors(picture)._asdict().items():
        assert getattr(brighter, name) == pytest.approx(value, abs=0.02), name
        assert getattr(moved, name) == pytest.approx(value, abs=0.02), name


def test_head_cut_off_at_an_edge_is_told():
    found = descriptors(disk(centre=(110, 64)))
    assert found.cut_below > 0.8
    assert found.cut_above == 0
    assert descriptors(disk(centre=(18, 64))).cut_above > 0.8


def test_lopsided_outline_is_told():
    picture = disk()
    picture[80:110, 90:125] = 100
    assert descriptors(picture).lopsided > 0.03


def test_outline_follows_the_head_and_leaves_a_thin_table_out():
    picture = disk()
    picture[122:124, 10:118] = 255
    found = outlined(picture).head
    expected = disk() > 0
    assert (found ^ expected).mean() < 0.01


def test_outline_of_a_real_head_shape_is_whole_in_both_modalities():
    for modality in ("ct", "mr"):
        for picture in slices(1, modality):
            assert 0.3 < outlined(picture).head.mean() < 0.8


@pytest.mark.parametrize("grey", [0.0, 200.0])
def test_constant_picture_has_no_outline(grey):
    assert not outlined(np.full((64, 64), grey, np.float32)).head.any()


def test_speck_is_no_head():
    picture = np.zeros((100, 100), np.float32)
    picture[40:50, 40:50] = 255
    assert not outlined(picture).head.any()


def test_picture_without_head_cannot_be_described():
    with pytest.raises(ValueError, match="head must not be empty"):
        describe(outlined(np.zeros((32, 32), np.float32)))


def test_shrunk_keeps_the_aspect_and_small_pictures():
    assert shrunk(np.ones((512, 256), np.float32)).shape == (128, 64)
    assert shrunk(np.ones((100, 90), np.float32)).shape == (100, 90)
    assert shrunk(np.eye(256, dtype=np.float32)).mean() == pytest.approx(1 / 256, rel=0.01)
