"""Volumes become slices for training: the head only, at one pixel size, with its height; in two file formats the same."""

from dataclasses import replace

import numpy as np
import pytest

from ctmr import read_scan, synthesise_head, train, write_scan
from ctmr.config import DataConfig
from ctmr.data.dataset import SAME_HEIGHT_MM, UnpairedSlices
from ctmr.data.prepare import prepare
from ctmr.data.store import from_codes
from ctmr.errors import DataError, SafetyError
from ctmr.evaluation.evaluate import evaluate
from ctmr.imaging.ct_values import looks_like_hu
from ctmr.imaging.head import find_head
from ctmr.imaging.intensity import MR_UNITS, ct_window
from ctmr.imaging.modality import as_modality
from ctmr.imaging.resampling import Scale
from ctmr.imaging.slices import head_slices
from ctmr.imaging.volume import Volume, canonical
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.data_folder import write_heads
from support.heads import stored_codes

HEAD = synthesise_head(5, shape=(72, 80, 40), spacing_mm=(3.0, 3.0, 5.0))
CT, MR = (
    Volume(array, HEAD.affine, name) for array, name in ((HEAD.ct, "ct"), (np.rint(HEAD.mr), "mr"))
)
TOP_K = int(np.flatnonzero(HEAD.mask.sum(axis=(0, 1)) * 9 >= 500)[-1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data folders of the same synthetic heads, as NIfTI and as DICOM."""
    place = tmp_path_factory.mktemp("volumes")
    for form in ("nifti", "dicom"):
        write_heads(place / form, subjects=2, size=64, seed=3, image_format=form)
    return place


@pytest.fixture
def small(tiny_config) -> DataConfig:
    return tiny_config.data.model_copy(update={"pixel_mm": 4.0, "match_heights": True})


# The head in a volume


@pytest.mark.parametrize("volume", [CT, MR], ids=["ct", "mr"])
def test_head_is_found_where_it_is(volume):
    head = find_head(volume, volume.modality)
    mask = head.mask(volume.array.shape)
    assert (mask & HEAD.mask).sum() / HEAD.mask.sum() > 0.97  # hardly any skin is lost
    assert (mask & ~HEAD.mask).sum() / HEAD.mask.sum() < 0.2  # a node larger all around
    assert abs(head.top - TOP_K) <= 1


def test_table_is_no_head():
    array = CT.array.copy()
    array[:, 1, :] = 300  # a table behind the head
    mask = find_head(Volume(array, CT.affine), "ct").mask(array.shape)
    assert not mask[:, 1, :].any()
    assert mask.sum() == pytest.approx(find_head(CT, "ct").mask(array.shape).sum(), rel=0.01)


def test_nothing_is_found_where_nothing_is():
    assert find_head(Volume(np.full((9, 9, 9), -1000, np.float32), np.eye(4)), "ct") is None
    noise = np.full((30, 30, 9), -1000, np.float32)
    noise[4, 4, 4] = 500
    assert find_head(Volume(noise, np.eye(4)), "ct") is None


# Slices of it


def test_slices_are_the_heads_and_nothing_else():
    found = head_slices(CT, "ct", Scale(36, 3.0), 32)
    images = np.stack(list(found.images(ct_window("wide"))))
    assert images.shape == (len(found.kept), *found.window[2:])
    assert (images[:, 0] == -1).all()
    assert (images[:, :, 0] == -1).all()
    assert images.max() > 0  # bone
    areas = HEAD.mask.sum(axis=(0, 1)) * 9
    assert all(areas[k] > 1500 for k in found.kept)
    assert found.heights_mm[-1] < found.heights_mm[0]
    assert found.heights_mm[0] == pytest.approx(5 * (TOP_K - found.kept[0]), abs=5)


def test_slices_do_not_depend_on_how_the_axes_are_stored():
    turned = Volume(
        np.ascontiguousarray(CT.array.transpose(2, 0, 1)[::-1]),
        CT.affine[:, [2, 0, 1, 3]]
        @ np.array([[-1, 0, 0, CT.array.shape[2] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        "ct",
    )
    np.testing.assert_array_equal(canonical(turned).array, CT.array)
    one, two = (head_slices(volume, "ct", Scale(36, 3.0), 32) for volume in (CT, turned))
    assert one.heights_mm == two.heights_mm
    for first, second in zip(
        one.images(ct_window("wide")), two.images(ct_window("wide")), strict=True
    ):
        np.testing.assert_array_equal(first, second)


def test_patients_right_is_at_the_left_and_the_front_at_the_top():
    array = CT.array.copy()
    _, j, k = (int(n.mean()) for n in np.nonzero(HEAD.mask))
    i, front = np.nonzero(HEAD.mask[:, :, k])
    right_most, front_most = int(i.max()) - 4, int(front.max()) - 4
    array[right_most - 1 : right_most + 2, j - 1 : j + 2, k] = 3000
    array[int(i.mean()), front_most, k] = 2900
    found = head_slices(Volume(array, CT.affine), "ct", Scale(36, 3.0), 32)
    image = list(found.images(ct_window("wide")))[found.kept.index(k)]
    row, column = np.unravel_index(image.argmax(), image.shape)
    assert column < image.shape[1] / 2
    image[row - 3 : row + 4, column - 3 : column + 4] = -1
    assert np.unravel_index(image.argmax(), image.shape)[0] < image.shape[0] / 3


def test_window_is_never_smaller_than_the_crop():
    found = head_slices(CT, "ct", Scale(round(1.12 * 200), 3.0), 200)
    assert found.window[2:] == (224, 224)


def test_volume_without_a_head_has_no_slices():
    blank = Volume(np.zeros(CT.array.shape, np.float32), CT.affine)
    with pytest.raises(DataError, match="expected a head: found none"):
        head_slices(blank, "mr", Scale(36, 3.0), 32)


def test_volume_without_a_head_that_a_user_vouches_for_is_taken_whole():
    blank = Volume(np.zeros(CT.array.shape, np.float32), CT.affine)
    found = head_slices(blank, "mr", Scale(36, 3.0), 32, anyway=True)
    assert not found.head.is_found
    assert found.kept == tuple(range(CT.array.shape[2]))
    assert head_slices(CT, "ct", Scale(36, 3.0), 32, anyway=True).head.is_found


def test_mr_with_mean_0_gives_the_slices_that_it_gives_unscaled():
    plain = head_slices(MR, "mr", Scale(36, 3.0), 32)
    array = (MR.array - MR.array[HEAD.mask].mean()) / MR.array[HEAD.mask].std()
    scored = np.where(plain.head.mask(MR.array.shape), array, 0).astype(np.float32)
    found = head_slices(Volume(scored, MR.affine, "mr"), "mr", Scale(36, 3.0), 32)
    assert plain.kept == found.kept
    assert np.abs(np.subtract(plain.window, found.window)).max() <= 2
    images = [
        np.stack(list(replace(each, window=plain.window).images(MR_UNITS.fitted(each.head.values))))
        for each in (plain, found)
    ]
    assert np.abs(images[0] - images[1]).mean() < 0.02


def test_head_with_no_large_slice_is_refused():
    array = np.full(CT.array.shape, -1000, np.float32)
    array[30:40, 30:40, 10:20] = 100  # 900 mm2
    with pytest.raises(DataError, match="slices with at least 2000 mm2 of head"):
        head_slices(Volume(array, CT.affine), "ct", Scale(36, 3.0), 32)


# CT or MR


def test_ct_in_hu_and_mr_are_told_apart():
    assert looks_like_hu(CT.array)
    assert not looks_like_hu(MR.array)
    assert as_modality(Volume(CT.array, CT.affine), "ct").modality == "ct"
    with pytest.raises(SafetyError, match="the header says MR"):
        as_modality(MR, "ct")
    with pytest.raises(SafetyError, match="expected CT in HU"):
        as_modality(Volume(CT.array + 1024, CT.affine), "ct")  # values of a scanner, not HU
    with pytest.raises(SafetyError, match="found the values of a CT in HU"):
        as_modality(Volume(CT.array, CT.affine), "mr")


# The store


def test_nifti_and_dicom_of_the_same_heads_give_the_same_slices(folders, small):
    one, two = (prepare(folders / form, small) for form in ("nifti", "dicom"))
    assert one.fingerprint != two.fingerprint
    np.testing.assert_array_equal(stored_codes(one), stored_codes(two))
    for split in ("train", "test"):
        for modality in ("ct", "mr"):
            heights = [[e.height_mm for e in s.entries(split, modality)] for s in (one, two)]
            assert heights[0] == heights[1]
            assert one.count(split, modality) > 50


def test_store_holds_mr_by_the_percentiles_of_its_head(folders, small):
    store = prepare(folders / "nifti", small)
    assert store.intensities["mr"] == {"MR": MR_UNITS}
    assert store.scale == Scale(36, 4.0)
    entries = store.entries("train", "mr")
    name = entries[0].name.partition("#")[0]
    own = [i for i, entry in enumerate(entries) if entry.name.startswith(name)]
    values = np.stack([store.slice("train", "mr", i)[..., 0] for i in own])
    volume = read_scan(folders / "nifti/train/mr" / name)
    head = find_head(canonical(volume), "mr")
    share = float((values > 0.995).mean() * values.size / (head.coarse.sum() / (4 / 3.4) ** 2))
    assert 0 < share < 0.05


def test_partner_lies_at_a_similar_height(folders, small):
    store = prepare(folders / "nifti", small)
    dataset = UnpairedSlices(store, small, seed=1)
    differences = []
    for n in range(2 * dataset.images):
        ct, mr = dataset.pair(n)
        heights = [store.entries("train", m)[i].height_mm for m, i in (("ct", ct), ("mr", mr))]
        differences.append(abs(heights[0] - heights[1]))
    assert max(differences) <= SAME_HEIGHT_MM
    larger = max(("ct", "mr"), key=lambda m: store.count("train", m))
    seen = {dataset.pair(n)[0 if larger == "ct" else 1] for n in range(dataset.images)}
    assert len(seen) == dataset.images  # an epoch shows all of the larger folder


def test_partner_is_any_slice_where_heights_do_not_matter(folders, small):
    store = prepare(folders / "nifti", small)
    dataset = UnpairedSlices(store, small.model_copy(update={"match_heights": False}), seed=1)
    heights = [
        [
            store.entries("train", m)[i].height_mm
            for m, i in zip(("ct", "mr"), dataset.pair(n), strict=True)
        ]
        for n in range(dataset.images)
    ]
    assert np.abs(np.diff(heights)).max() > 30


def test_images_and_volumes_together_are_refused(folders, tiny_data, tmp_path, small):
    for modality in ("ct", "mr"):
        (tmp_path / "train" / modality).mkdir(parents=True)
    (tmp_path / "train/ct/a.png").write_bytes((tiny_data / "trainA/ct_00.png").read_bytes())
    write_scan(tmp_path / "train/mr/a.nii", MR)
    with pytest.raises(DataError, match="expected images only, or volumes only"):
        prepare(tmp_path, small)


def test_exchanged_folders_are_refused_with_every_scan_named(folders, tmp_path, small):
    for modality, other in (("ct", "mr"), ("mr", "ct")):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / "train" / modality).symlink_to(folders / "nifti/train" / other)
    with pytest.raises(SafetyError, match="4 of 4 scans cannot be used") as caught:
        prepare(tmp_path, small)
    assert "train/ct/subject-" in str(caught.value)
    assert "expected CT in HU" in str(caught.value)
    assert "found the values of a CT" in str(caught.value)


def test_patient_on_both_sides_of_the_split_is_told_from_the_header(
    folders, tmp_path, small, caplog
):
    for split in ("train", "test"):
        for modality, volume in (("ct", CT), ("mr", MR)):
            shifted = Volume(volume.array + (split == "test"), volume.affine, modality)
            phantom_series(
                tmp_path / split / modality / f"{split}-{modality}",
                shifted,
                name="one patient",
                study=split + modality,
            )
    store = prepare(tmp_path, small)
    assert {overlap.why for overlap in store.overlap} == {"patient"}
    assert "one patient" not in caplog.text


# Training and evaluation


def test_training_on_volumes_translates_and_is_measured(
    folders, tiny_config, small, tmp_path, monkeypatch
):
    monkeypatch.setattr("ctmr.evaluation.evaluate.HEADS", 2)
    config = tiny_config.model_copy(update={"data": small})
    train(config, folders / "dicom", tmp_path / "run", stop_after=2)
    found = evaluate(tmp_path / "run", folders / "dicom/test", out=tmp_path / "evaluation")
    assert found.summary["n"] == 2
    directions = found.summary["directions"]
    assert directions["mr-to-ct"]["unit"] == "HU"
    assert directions["ct-to-mr"]["unit"] == "MR"
    assert set(directions["mr-to-ct"]) >= {"mae", "psnr", "ssim", "mae_bone", "mae_soft"}
    assert (tmp_path / "evaluation/comparison.png").stat().st_size > 10_000
    as_nifti = evaluate(tmp_path / "run", folders / "nifti/test").summary["directions"]
    for direction, figures in directions.items():
        for name in ("mae", "psnr", "ssim"):
            assert as_nifti[direction][name]["mean"] == pytest.approx(
                figures[name]["mean"], rel=1e-4
            )


def test_store_is_read_back_as_it_was_written(folders, small):
    store = prepare(folders / "nifti", small)
    codes, entry = store.codes("train", "ct", 0), store.entries("train", "ct")[0]
    assert codes.shape == (entry.height, entry.width, 1)
    assert -1 <= from_codes(codes).min() <= from_codes(codes).max() <= 1
