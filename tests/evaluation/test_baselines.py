"""Baselines by hand, and that no patient has a part in the own ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from ctmr.data.pairs import find_pairs, head_of, read_pair
from ctmr.errors import DataError
from ctmr.evaluation.baselines import IMAGE_GRID, Baselines, fit_baselines
from ctmr.evaluation.protocol import comparable
from ctmr.imaging.image import Image
from ctmr.imaging.volume import Volume
from ctmr.io.image_info import write_image_info
from ctmr.io.images import write_image
from ctmr.io.scan import write_scan
from ctmr.types import Modality

SIZE = 32
GRID_MM = IMAGE_GRID[1]
PATIENTS = r"/([a-z]+)"


def save(path: Path, array: np.ndarray, depth: int = 8, unit: str = "grey") -> None:
    write_image(path, Image(array.astype(np.float32), unit, depth))


def pairs(folder: Path, **images: tuple[np.ndarray, np.ndarray]) -> Path:
    """A folder of pairs from `name=(ct, mr)`, with masks that take the whole image."""
    for name, (ct, mr) in images.items():
        save(folder / "ct" / f"{name}.png", ct)
        save(folder / "mr" / f"{name}.png", mr)
        save(folder / "mask" / f"{name}.png", np.ones(ct.shape[:2]))
    return folder


def spaced(folder: Path, spacing: tuple[float, float]) -> Path:
    for kind in ("ct", "mr"):
        write_image_info(folder / kind, "grey", spacing)
    return folder


def translated(folder: Path, name: str, to: Modality = "ct", baselines: Baselines | None = None):
    """The baselines for the pair of that name, by default from all pairs of its folder."""
    found = find_pairs(folder, PATIENTS)
    pair = next(pair for pair in found if pair.name == name)
    images = read_pair(pair)
    baselines = baselines or fit_baselines(found, [to])
    return baselines.translate(pair, images, head_of(pair, images), to)


def noise(seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size)).astype(np.float64)


def flat(value: float) -> np.ndarray:
    return np.full((SIZE, SIZE), float(value))


# Leaving out


def test_patients_have_no_part_in_the_own_answers(tmp_path):
    names = ["a_slice-1", "a_slice-2", "b_slice-1", "c_slice-1", "c_slice-2", "d_slice-3"]
    folder = pairs(tmp_path, **{name: (noise(i), noise(50 + i)) for i, name in enumerate(names)})
    found = find_pairs(folder, PATIENTS)
    whole = fit_baselines(found, ["ct", "mr"])
    for name in [*names, names[0]]:
        others = fit_baselines([pair for pair in found if pair.patient != name[0]], ["ct", "mr"])
        for to in ("ct", "mr"):
            left_out = translated(folder, name, to, whole)
            refitted = translated(folder, name, to, others)
            assert set(left_out) == {"copy", "mean image", "monotone map"}
            for method, result in refitted.items():
                assert np.allclose(left_out[method], result, atol=1e-4), (name, to, method)


def test_one_patient_alone_has_a_copy_only(tmp_path):
    folder = pairs(tmp_path, a_1=(noise(0), noise(1)), a_2=(noise(2), noise(3)))
    assert list(translated(folder, "a_1")) == ["copy"]


def test_pairs_of_another_kind_have_no_part(tmp_path):
    folder = pairs(tmp_path, a=(flat(10), flat(20)), b=(flat(40), flat(20)), c=(flat(99), flat(20)))
    save(folder / "ct" / "c.png", flat(9999), depth=16)
    assert np.allclose(translated(folder, "a")["mean image"], 40, atol=1e-4)
    assert list(translated(folder, "c")) == ["copy"]


def test_pairs_that_cannot_be_read_are_refused(tmp_path):
    folder = pairs(tmp_path, a=(noise(0), noise(1)), b=(noise(0), noise(1)))
    found = find_pairs(folder)
    (folder / "ct" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="found an empty file"):
        fit_baselines(found, ["ct"])


# Copy


def test_copy_is_the_source(tmp_path):
    mr = noise(1)
    assert np.allclose(translated(pairs(tmp_path, a=(noise(0), mr)), "a")["copy"], mr)


def test_copy_has_the_range_of_the_truth(tmp_path):
    mr = np.repeat([[0, 255]], SIZE, axis=0).repeat(16, axis=1)
    folder = pairs(tmp_path, a=(noise(0), mr))
    save(folder / "ct" / "a.png", flat(40), 16, "HU")
    write_image_info(folder / "ct", "HU")
    copy = translated(folder, "a")["copy"]
    assert (copy.min(), copy.max()) == (-1024, 3000)
    back = translated(folder, "a", "mr")["copy"]
    assert np.allclose(back, (40 + 1024) / 4024 * 255, atol=1e-3)


# Mean image


def test_mean_image_of_one_level_worked_by_hand(tmp_path):
    values = {"a_slice-1": 1, "a_slice-2": 2, "b_slice-1": 10, "c_slice-1": 40, "c_slice-2": 100}
    values["d_slice-7"] = 7
    folder = pairs(tmp_path, **{name: (flat(v), noise(0)) for name, v in values.items()})
    expected = {
        "a_slice-1": (10 + 40) / 2,
        "a_slice-2": 100,
        "c_slice-2": 2,
        "d_slice-7": (1 + 2 + 10 + 40 + 100) / 5,  # nobody else has level 7: all levels
    }
    for name, mean in expected.items():
        result = translated(folder, name)["mean image"]
        assert result.shape == (SIZE, SIZE)
        assert np.allclose(result, mean, atol=1e-4)


def test_mean_image_is_the_mean_of_the_pixels_at_the_grids_pixel_size(tmp_path):
    first, second = noise(1), noise(2)
    folder = pairs(tmp_path, a=(first, noise(3)), b=(second, noise(4)), c=(noise(5), noise(6)))
    result = translated(spaced(folder, (GRID_MM, GRID_MM)), "c")["mean image"]
    assert np.allclose(result, (first + second) / 2, atol=1e-3)


def test_mean_image_lies_centre_on_centre_in_mm(tmp_path):
    dot = np.zeros((64, 64))
    dot[24:40, 24:40] = 200  # 16 pixels of 2 mm about the centre
    folder = pairs(tmp_path, a=(dot, noise(0, 64)), b=(np.zeros((96, 48)), np.zeros((96, 48))))
    for kind in ("ct", "mr"):
        info = '"files": {"a.png": {"spacing_mm": [2, 2]}, "b.png": {"spacing_mm": [1, 4]}}'
        (folder / kind / "ctmr.json").write_text(f'{{"unit": "grey", {info}}}')
    bright = np.argwhere(translated(folder, "b")["mean image"] > 100)  # 96 x 192 mm
    assert bright.min(axis=0) == pytest.approx([32, 20], abs=1)  # 48 - 16, 24 - 4
    assert bright.max(axis=0) == pytest.approx([63, 27], abs=1)


def test_mean_image_without_a_spacing_fills_the_image(tmp_path):
    half = np.zeros((48, 48))
    half[:, 24:] = 200
    folder = pairs(tmp_path, a=(half, noise(0, 48)), b=(noise(1, 96), noise(2, 96)))
    result = translated(folder, "b")["mean image"]
    assert result.shape == (96, 96)
    assert np.abs(result[:, :46]).max() < 1e-3
    assert np.abs(result[:, 50:] - 200).max() < 1e-3


def test_mean_image_goes_on_at_the_border_where_an_image_shows_more(tmp_path):
    wide = np.zeros((200, 200))  # 800 mm: more than the grid
    folder = pairs(tmp_path, a=(np.full((200, 200), 30), wide), b=(wide, wide))
    assert np.allclose(translated(spaced(folder, (4.0, 4.0)), "b")["mean image"], 30, atol=1e-3)


def test_mean_of_colour_images_is_that_of_their_channels(tmp_path):
    colour = np.zeros((SIZE, SIZE, 3))
    colour[..., 0] = 90
    folder = pairs(tmp_path, a=(noise(0), colour), b=(noise(1), colour))
    assert np.allclose(translated(folder, "a", "mr")["mean image"], 30, atol=1e-4)


# Monotone map


@pytest.mark.parametrize(
    "relation",
    [
        lambda x: x / 2 + 20,
        lambda x: 250 - x / 2,  # falling
        lambda x: np.where(x < 100, 10.0, 200.0),
        lambda x: 255 * (x / 255) ** 2,
    ],
)
def test_monotone_map_recovers_a_monotone_relation(tmp_path, relation):
    mr, seen = noise(1), noise(2)
    folder = pairs(tmp_path, a=(np.rint(relation(mr)), mr), b=(noise(3), seen))
    result = translated(folder, "b")["monotone map"]
    known = np.isin(seen, mr)
    assert np.abs(result - relation(seen))[known].max() <= 1


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32))
def test_monotone_map_is_monotone_and_no_worse_than_a_constant(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    mr = rng.integers(0, 256, (SIZE, SIZE))
    ct = np.clip(rng.normal(0, 40, mr.shape) + rng.uniform(-1, 1) * (mr - 128) + 128, 0, 255)
    ct = np.rint(ct)
    folder = pairs(tmp_path_factory.mktemp("pairs"), a=(ct, mr), b=(ct, mr))
    result = translated(folder, "b")["monotone map"]
    steps = np.diff(result.ravel()[np.argsort(mr, axis=None)])
    assert (steps >= -1e-4).all() or (steps <= 1e-4).all()
    assert np.square(result - ct).mean() <= ct.var() + 1e-4


def test_monotone_map_sees_the_head_only(tmp_path):
    mr, mask = noise(1), np.zeros((SIZE, SIZE))
    mask[:16] = 1
    ct = np.where(mask > 0, np.rint(mr / 2), 255)
    folder = pairs(tmp_path, a=(ct, mr), b=(ct, mr))
    save(folder / "mask" / "a.png", mask)
    assert np.abs(translated(folder, "b")["monotone map"] - mr / 2)[:16].max() <= 0.5


def test_values_that_break_the_order_share_the_mean_of_their_pixels(tmp_path):
    mr, ct = np.full((SIZE, SIZE), 10.0), np.zeros((SIZE, SIZE))
    mr[16:], ct[16:] = 20, 100  # 512 pixels each
    mr[:4], ct[:4] = 30, 60  # 128 pixels that fall
    folder = pairs(tmp_path, a=(ct, mr), b=(ct, flat(20)))
    result = translated(folder, "b")["monotone map"]
    assert result[0, 0] == pytest.approx((512 * 100 + 128 * 60) / 640)


def test_heads_count_by_their_pixels(tmp_path):
    small = np.zeros((16, 16))
    folder = pairs(tmp_path, a=(small + 90, small + 7), b=(flat(40), flat(7)), c=(flat(0), flat(7)))
    result = translated(folder, "c")["monotone map"]
    assert np.allclose(result, (90 * 16**2 + 40 * SIZE**2) / (16**2 + SIZE**2), atol=1e-3)


def test_values_beyond_those_seen_are_mapped_as_the_nearest_seen(tmp_path):
    mr = flat(100)
    mr[16:] = 101
    folder = pairs(tmp_path, a=(mr - 50, mr), b=(flat(0), np.linspace(0, 255, SIZE**2)[None]))
    folder = pairs(folder, b=(flat(0), np.linspace(0, 255, SIZE**2).reshape(SIZE, SIZE)))
    result = translated(folder, "b")["monotone map"]
    assert (result[0, 0], result[-1, -1]) == pytest.approx((50, 51))


# Volumes


def head(middle: tuple[float, float, float], shape: tuple[int, int, int] = (44, 50, 40)):
    """A head of 4 mm voxels about a place: CT and MR of one shape, with an ear on the right side."""
    places = np.indices(shape).transpose(1, 2, 3, 0) - middle
    radius = np.linalg.norm(places / [15, 18, 14], axis=-1)
    ear = np.linalg.norm((places - [15, 0, 0]) / [3, 2, 2], axis=-1) < 1
    ct = np.select([radius < 0.85, radius < 1, ear], [40, 1000, 20], -1000)
    mr = np.select([radius < 0.85, radius < 1, ear], [600, 50, 300], 0)
    return ct.astype(np.float32), mr.astype(np.float32)


def save_volumes(folder: Path, name: str, ct: np.ndarray, mr: np.ndarray, *flips: int) -> None:
    """Both as NIfTI files of 4 mm voxels, with some axes turned round."""
    affine = np.diag([4.0, 4, 4, 1])
    for axis in flips:
        affine[axis, axis], affine[axis, 3] = -4, 4 * (ct.shape[axis] - 1)
        ct, mr = np.flip(ct, axis), np.flip(mr, axis)
    for kind, array in (("ct", ct), ("mr", mr)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        volume = Volume(np.ascontiguousarray(array), affine, kind)
        write_scan(folder / kind / f"{name}.nii", volume)


def inside_of(array: np.ndarray) -> np.ndarray:
    """All but what may lie beyond the border of another volume."""
    return array[6:-6, 6:-6, 6:-6]


@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_mean_volume_is_aligned_by_the_heads(tmp_path, flips):
    mine, other = head((21, 24, 20)), head((23, 25, 17))
    save_volumes(tmp_path, "a", *mine, *flips)
    save_volumes(tmp_path, "b", *other)
    result = np.flip(translated(tmp_path, "a")["mean image"], flips)
    assert result.shape == mine[0].shape
    assert np.abs(inside_of(result - mine[0])).max() < 1e-2


def test_mean_volume_leaves_out_the_patient(tmp_path):
    ct, mr = head((21, 24, 20))
    for name, brain in (("a", 500.0), ("b", 20.0), ("c", 60.0)):
        save_volumes(tmp_path, name, np.where(ct == 40, brain, ct).astype(np.float32), mr)
    found = translated(tmp_path, "a")
    assert np.allclose(found["mean image"][ct == 40], 40, atol=1e-2)
    others = fit_baselines(find_pairs(tmp_path, PATIENTS)[1:], ["ct"])
    refitted = translated(tmp_path, "a", baselines=others)["monotone map"]
    assert np.allclose(found["monotone map"], refitted, atol=1e-3)


def test_mr_volumes_are_compared_between_0_and_1000(tmp_path):
    ct, mr = head((21, 24, 20))
    save_volumes(tmp_path, "a", ct, mr)
    save_volumes(tmp_path, "b", ct, 7 * mr)
    pair = find_pairs(tmp_path)[0]
    images = read_pair(pair)
    truth = comparable(images["mr"], head_of(pair, images))
    assert (truth.min(), truth.max()) == (0, 1000)
    result = translated(tmp_path, "a", "mr")["mean image"]
    assert np.allclose(inside_of(result), inside_of(truth), atol=1e-2)


def test_volumes_of_finer_voxels_are_averaged_onto_the_grid(tmp_path):
    ct, mr = (array.repeat(2, 0).repeat(2, 1).repeat(2, 2) for array in head((21, 24, 20)))
    for name in ("a", "b"):
        for kind, array in (("ct", ct), ("mr", mr)):
            (tmp_path / kind).mkdir(exist_ok=True)
            write_scan(
                tmp_path / kind / f"{name}.nii", Volume(array, np.diag([2.0, 2, 2, 1]), kind)
            )
    result = translated(tmp_path, "a")["mean image"]
    brain = binary_erosion(ct == 40, iterations=8)
    assert np.abs(result - ct)[brain].max() < 1e-2
    assert np.corrcoef(result.ravel(), ct.ravel())[0, 1] > 0.9
