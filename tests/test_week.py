"""A week of real life: one folder as a hospital hands it over, used by every command without moving a file."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom import uid

from ctmr.data.store import open_store
from ctmr.data.trees import split_of
from ctmr.imaging.volume import Volume, resampled_onto
from ctmr.io.dicom.header import hashed
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from ctmr.types import MODALITIES, SPLITS
from support import tiny
from support.whole_program import called, object_of

SPACING_MM = (4.0, 4.0, 5.0)
PATIENTS = ("patient-C", "patient-Z")  # the first is for testing by the rule of `split_of`
TINY = [*tiny.TINY, "--set", "data.pixel_mm=6", "--steps", "20"]


def finer(volume: Volume) -> Volume:
    """The same head on a grid of its own, as an MR has it: 3 mm, and turned by 4 degrees."""
    turn = np.eye(4)
    c, s = np.cos(np.radians(4)), np.sin(np.radians(4))
    turn[:2, :2] = [[c, -s], [s, c]]
    affine = turn @ volume.affine @ np.diag([0.75, 0.75, 1, 1])
    grid = Volume(np.zeros((64, 75, 36), np.float32), affine, "mr")
    return resampled_onto(volume, grid)


def localizer(folder: Path, like: Path) -> None:
    folder.mkdir()
    for n in range(3):
        content = pydicom.dcmread(like)
        content.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        content.SeriesInstanceUID = uid.generate_uid(entropy_srcs=["localizer"])
        content.SOPInstanceUID = uid.generate_uid()
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
        content.SeriesNumber = 99
        content.save_as(folder / f"L{n}.dcm")


@pytest.fixture(scope="module")
def week(tmp_path_factory) -> Path:
    """Two patients with CT and MR, one as a planning export and one as a research subject."""
    root = tmp_path_factory.mktemp("week") / "hospital"
    for n, patient in enumerate(PATIENTS):
        head = synthesise_head(20 + n, shape=(48, 56, 36), spacing_mm=SPACING_MM)
        mr = np.rint(head.mr * (900 / head.mr.max())).astype(np.float32)
        study = root / patient / "2024-03-01"
        for name, volume in (
            ("CT_HEAD", Volume(np.rint(head.ct), head.affine, "ct")),
            ("T1_MPRAGE", finer(Volume(mr, head.affine, "mr"))),
        ):
            phantom_series(study / name, volume, name=patient, study="S1")
        localizer(study / "SCOUT", study / "CT_HEAD" / "slice_0001.dcm")
        object_of(study / "CT_HEAD" / "RS.dcm", "RTSTRUCT", uid.RTStructureSetStorage)
        object_of(study / "CT_HEAD" / "RD.dcm", "RTDOSE", uid.RTDoseStorage)
        object_of(study / "CT_HEAD" / "SR.dcm", "SR", uid.XRayRadiationDoseSRStorage)
        Pillow.fromarray(np.zeros((32, 32), np.uint8)).save(study / "CT_HEAD" / "preview.jpg")
    head = synthesise_head(23, shape=(48, 56, 36), spacing_mm=SPACING_MM)
    mr = np.rint(head.mr * (900 / head.mr.max())).astype(np.float32)
    anat = root / "sub-03" / "anat"
    anat.mkdir(parents=True)
    image = nib.Nifti1Image(mr, head.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, anat / "sub-03_T1w.nii.gz")
    (anat / "sub-03_T1w.json").write_text(json.dumps({"Modality": "MR", "EchoTime": 0.003}))
    mask = nib.Nifti1Image((mr > 50).astype(np.uint8), head.affine)
    mask.header.set_xyzt_units("mm")
    nib.save(mask, anat / "sub-03_desc-brain_T1w_mask.nii.gz")
    (root / "participants.tsv").write_text("participant_id\nsub-03\n")
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_week_of_real_life(week, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ctmr.evaluation.evaluate.HEADS", 2)
    before = files(week)

    called("audit", week, "--out", tmp_path / "audit.json")
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["errors"] == 0, report["findings"]
    assert sum(report["scans"].values()) == 5
    kinds = {finding["kind"] for finding in report["findings"]}
    assert {"no_scan", "skipped"} <= kinds

    called("train", week, "--out", tmp_path / "run", *TINY)
    store = open_store(next((tmp_path / "cache/stores").glob("*/store.json")).parent)
    splits = split_of({*map(hashed, PATIENTS), "03"})
    counts = {
        (split, modality): len({e.name.split("#")[0] for e in store.entries(split, modality)})
        for split in SPLITS
        for modality in MODALITIES
    }
    assert splits[hashed(PATIENTS[0])] == "test"
    assert counts == {("train", "ct"): 1, ("train", "mr"): 2, ("test", "ct"): 1, ("test", "mr"): 1}

    out = tmp_path / "translated"
    called("translate", week, out, "--model", tmp_path / "run", "--to", "mr", "--anyway")
    results = sorted(path.relative_to(out).as_posix() for path in out.rglob("slice_0001.dcm"))
    assert results == [f"{name}/2024-03-01/CT_HEAD/slice_0001.dcm" for name in sorted(PATIENTS)]
    made = pydicom.dcmread(out / results[0])
    assert (made.Modality, made.PatientID) == ("MR", sorted(PATIENTS)[0])

    called("evaluate", tmp_path / "run", week, "--out", tmp_path / "found", "--anyway")
    metrics = json.loads((tmp_path / "found/metrics.json").read_text())
    assert metrics["n"] == 1  # CT and MR of the test patient share their frame of reference
    assert metrics["directions"]["mr-to-ct"]["mae"]["mean"] > 0
    assert files(week) == before
    shutil.rmtree(out)
