"""The reading options through the whole program: a CT without HU, scans let in by --anyway, masks beside pairs."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.synthetic.head import synthesise_head
from support import tiny

HEADS = [
    synthesise_head(n, shape=(40, 46, 26), spacing_mm=(4.5, 4.5, 6.0)) for n in (40, 41, 42, 43)
]
TINY = [*tiny.TINY, "--set", "data.pixel_mm=7", "--steps", "2"]


def nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def called(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ctmr.evaluation.evaluate.HEADS", 2)


@pytest.fixture
def windowed(tmp_path) -> Path:
    """Heads of which each CT is a window from 0 to 1: a data folder and, in `test`, pairs."""
    for n, head in enumerate(HEADS):
        split = "train" if n < 2 else "test"
        nifti(tmp_path / f"data/{split}/ct/h{n}.nii", np.clip(head.ct / 80, 0, 1), head.affine)
        nifti(tmp_path / f"data/{split}/mr/h{n}.nii", head.mr, head.affine)
    return tmp_path / "data"


def test_grey_ct_goes_through_every_command(windowed, tmp_path):
    grey, run = ("--ct-values", "grey"), tmp_path / "run"
    refused = called("train", windowed, "--out", run, *TINY, code=8)
    assert "--ct-values grey" in refused.replace("\n", " ")
    called("audit", windowed, "--out", tmp_path / "audit.json", *grey)
    assert json.loads((tmp_path / "audit.json").read_text())["errors"] == 0
    called("train", windowed, "--out", run, *TINY, *grey)
    card = json.loads((run / "model" / "model.json").read_text())
    assert list(card["intensities"]["ct"]) == ["grey"]
    called(
        "translate",
        windowed / "test/ct",
        tmp_path / "mr",
        "--model",
        run,
        "--to",
        "mr",
        *grey,
        "--anyway",
    )
    sidecar = json.loads((tmp_path / "mr/h2.json").read_text())
    assert (sidecar["ct_values"], sidecar["anyway"]) == ("grey", True)
    called(
        "translate", windowed / "test/mr", tmp_path / "ct", "--model", run, "--to", "ct", "--anyway"
    )
    sidecar = json.loads((tmp_path / "ct/h2.json").read_text())
    assert (sidecar["unit"], sidecar["range"]) == ("grey", [0, 1000])
    called("evaluate", run, windowed / "test", "--out", tmp_path / "found", *grey, "--anyway")
    metrics = json.loads((tmp_path / "found/metrics.json").read_text())
    assert metrics["unit"] == "MR | grey"
    assert metrics["directions"]["mr-to-ct"]["mae"]["mean"] > 0


def test_series_is_not_written_by_a_model_without_hu(windowed, tmp_path):
    called("train", windowed, "--out", tmp_path / "run", *TINY, "--ct-values", "grey")
    mr = np.rint(HEADS[2].mr).astype(np.float32)
    phantom_series(tmp_path / "in", Volume(mr, HEADS[2].affine, "mr"), name="A", study="S")
    words = ("translate", tmp_path / "in", tmp_path / "out", "--model", tmp_path / "run")
    said = called(*words, "--to", "ct", "--anyway", code=8).replace("\n", " ")
    assert "convert the series to NIfTI" in said
    assert not (tmp_path / "out").exists()


def test_masks_beside_pairs_are_left_out_and_anyway_lets_the_other_modality_in(tmp_path, caplog):
    for n, head in enumerate(HEADS):
        split = "data/train" if n < 2 else "pairs"
        nifti(tmp_path / f"{split}/ct/h{n}.nii", np.rint(head.ct), head.affine)
        nifti(tmp_path / f"{split}/mr/h{n}.nii", head.mr, head.affine)
        if split == "pairs":
            for modality in ("ct", "mr"):
                nifti(tmp_path / f"pairs/{modality}/h{n}_seg.nii", head.mr > 60, head.affine)
    run = tmp_path / "run"
    called("train", tmp_path / "data", "--out", run, *TINY)
    called("evaluate", run, tmp_path / "pairs", "--out", tmp_path / "a")
    assert "left out 2 masks, label maps or maps of probabilities: h2_seg, h3_seg" in caplog.text
    assert json.loads((tmp_path / "a/metrics.json").read_text())["n"] == 2
    # A CT in the place of an MR is refused, and let in where the user says so.
    nifti(tmp_path / "pairs/mr/h3.nii", np.rint(HEADS[3].ct), HEADS[3].affine)
    said = called("evaluate", run, tmp_path / "pairs", "--out", tmp_path / "b", code=8)
    assert "found the values of a CT in HU" in said.replace("\n", " ")
    for path in (tmp_path / "pairs").glob("*/*_seg.nii"):
        path.unlink()
    called("evaluate", run, tmp_path / "pairs", "--out", tmp_path / "c", "--anyway")
    assert json.loads((tmp_path / "c/metrics.json").read_text())["n"] == 2
