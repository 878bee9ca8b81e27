"""A tree of patients as a data folder."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from ctmr.data.folders import holds_data, list_sources, require_sources
from ctmr.data.pairs import pairs_in_tree, read_pair
from ctmr.data.trees import split_of
from ctmr.errors import DataError
from ctmr.imaging.volume import Volume, resampled_onto
from ctmr.io.dicom.header import hashed
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.reading import Reading
from ctmr.io.scan import read_scan
from ctmr.synthetic.head import synthesise_head

HEAD = synthesise_head(3, shape=(30, 36, 20), spacing_mm=(6.0, 6.0, 8.0))
ARRAYS = {"ct": np.rint(HEAD.ct).astype(np.float32), "mr": HEAD.mr.astype(np.float32)}


def nifti(path: Path, modality: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(ARRAYS[modality], HEAD.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def dicom(folder: Path, modality: str, name: str) -> None:
    phantom_series(folder, Volume(ARRAYS[modality], HEAD.affine, modality), name=name, study="S")


def found(root: Path, pattern: str | None = None) -> dict[str, tuple[str, str]]:
    return {s.label: (s.modality, str(s.patient)) for s in require_sources(root, pattern)}


def test_bids_is_read_by_suffix_and_patient_folders_by_name(tmp_path):
    for n in (1, 2):
        nifti(tmp_path / f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz", "mr")
        nifti(tmp_path / f"sub-0{n}/ct/sub-0{n}_ct.nii.gz", "ct")
        nifti(tmp_path / f"1BA00{n}/ct.nii.gz", "ct")
        nifti(tmp_path / f"1BA00{n}/mr.nii.gz", "mr")
    assert found(tmp_path) == {
        **{f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz": ("mr", f"0{n}") for n in (1, 2)},
        **{f"sub-0{n}/ct/sub-0{n}_ct.nii.gz": ("ct", f"0{n}") for n in (1, 2)},
        **{f"1BA00{n}/{m}.nii.gz": (m, f"1BA00{n}") for n in (1, 2) for m in ("ct", "mr")},
    }


def test_header_sidecar_name_and_hu_say_the_modality_in_this_order(tmp_path, caplog):
    dicom(tmp_path / "A" / "mr_called_ct", "mr", "A")
    nifti(tmp_path / "B" / "mr_by_name.nii.gz", "ct")
    (tmp_path / "B" / "mr_by_name.json").write_text(json.dumps({"Modality": "CT"}))
    nifti(tmp_path / "C" / "T2_tse.nii.gz", "mr")
    nifti(tmp_path / "D" / "scan.nii.gz", "ct")
    nifti(tmp_path / "E" / "scan.nii.gz", "mr")
    assert {label: modality for label, (modality, _) in found(tmp_path).items()} == {
        "A/mr_called_ct": "mr",
        "B/mr_by_name.nii.gz": "ct",
        "C/T2_tse.nii.gz": "mr",
        "D/scan.nii.gz": "ct",
    }
    assert "no header, sidecar or name says CT or MR are not read: E/scan.nii.gz (1)" in caplog.text


def test_patient_of_a_header_comes_before_the_folder_and_the_pattern_before_all(tmp_path):
    for name in ("ANNA", "BERT"):
        dicom(tmp_path / name / "ct", "ct", name)
        dicom(tmp_path / name / "mr", "mr", name)
    assert {patient for _, patient in found(tmp_path).values()} == {hashed("ANNA"), hashed("BERT")}
    assert {patient for _, patient in found(tmp_path, "^(..)").values()} == {"AN", "BE"}


def test_split_is_by_the_hash_of_the_patient():
    patients = {f"p{n}" for n in range(400)}
    splits = split_of(patients)
    assert splits == {p: "test" if int(hashed(p), 16) % 10 == 0 else "train" for p in patients}
    assert 20 <= sum(split == "test" for split in splits.values()) <= 60
    few = {p for p in patients if int(hashed(p), 16) % 10}
    lowest = min(few, key=lambda p: int(hashed(p), 16))
    assert [p for p, split in split_of(few).items() if split == "test"] == [lowest]
    assert split_of({"p0"}) == {"p0": "train"}


def test_single_patient_is_trained_on_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    dicom(tmp_path / "ct", "ct", "ANNA")
    dicom(tmp_path / "mr", "mr", "ANNA")
    assert {s.split for s in require_sources(tmp_path, None)} == {"train"}
    assert "one patient, so nothing to test on" in caplog.text


def test_tree_without_a_modality_is_refused(tmp_path):
    for name in ("ANNA", "BERT"):
        dicom(tmp_path / name, "ct", name)
    with pytest.raises(DataError, match="expected MR to train on in the tree: found none"):
        require_sources(tmp_path, None)


def test_empty_folder_still_names_the_layouts(tmp_path):
    with pytest.raises(DataError, match="no folder trainA and no folder trainB"):
        require_sources(tmp_path, None)


def test_pairs_are_no_tree(tmp_path):
    nifti(tmp_path / "ct/a.nii.gz", "ct")
    nifti(tmp_path / "mr/a.nii.gz", "mr")
    assert not holds_data(tmp_path)


def test_series_option_chooses_in_each_folder(tmp_path):
    for name in ("ANNA", "BERT"):
        dicom(tmp_path / name / "ct", "ct", name)
        dicom(tmp_path / name / "mr", "mr", name)
    for n, folder in enumerate(sorted(tmp_path.glob("*/*")), 1):
        for path in folder.iterdir():
            content = pydicom.dcmread(path)
            content.SeriesNumber = n
            content.save_as(path)
    reading = Reading(series=("1", "2", "3"))
    assert sorted(s.label for s in list_sources(tmp_path, None, reading).scans) == [
        *("ANNA/ct", "ANNA/mr"), "BERT/ct",
    ]  # fmt: skip


@pytest.mark.parametrize("share", [True, False])
def test_ct_and_mr_in_one_frame_of_reference_are_a_pair_on_the_grid_of_the_ct(tmp_path, share):
    """The MR lies on a grid of its own, turned by 5 degrees: SimpleITK brings it back alike."""
    c, s = np.cos(np.radians(5)), np.sin(np.radians(5))
    affine = np.array([[c, -s, 0, 2], [s, c, 0, -3], [0, 0, 1, 1], [0, 0, 0, 1.0]]) @ HEAD.affine
    truth = Volume(np.rint(ARRAYS["mr"]), HEAD.affine, "mr")
    grid = Volume(np.zeros(ARRAYS["mr"].shape, np.float32), affine, "mr")
    moved = resampled_onto(truth, grid)
    for name in ("patient-C", "patient-Z"):  # the first is for testing
        dicom(tmp_path / name / "ct", "ct", name)
        study = "S" if share else "another"
        phantom_series(
            tmp_path / name / "mr",
            replace(moved, array=np.rint(moved.array)),
            name=name,
            study=study,
        )
    pairs = pairs_in_tree(require_sources(tmp_path, None))
    assert [pair.name for pair in pairs] == (["patient-C/ct"] if share else [])
    if share:
        images = read_pair(pairs[0])
        assert images["ct"].array.shape == images["mr"].array.shape
        np.testing.assert_allclose(images["ct"].affine, images["mr"].affine)
        moving = read_scan(tmp_path / "patient-C" / "mr")
        expected = resampled_by_simpleitk(moving, images["ct"])
        inside = images["mr"].array > images["mr"].array.min()
        np.testing.assert_allclose(images["mr"].array[inside], expected[inside], atol=0.5)


def resampled_by_simpleitk(volume: Volume, target: Volume) -> np.ndarray:
    made = []
    for each in (volume, target):
        image = SimpleITK.GetImageFromArray(each.array.transpose(2, 1, 0).copy())
        lps = np.diag([-1.0, -1, 1, 1]) @ each.affine
        image.SetSpacing([float(mm) for mm in each.spacing_mm])
        image.SetOrigin([float(mm) for mm in lps[:3, 3]])
        image.SetDirection((lps[:3, :3] / each.spacing_mm).ravel().tolist())
        made.append(image)
    lowest = float(volume.array.min())
    found = SimpleITK.Resample(
        made[0], made[1], SimpleITK.Transform(), SimpleITK.sitkLinear, lowest
    )
    return SimpleITK.GetArrayFromImage(found).transpose(2, 1, 0)
