"""The folders of benchmarks/data_time.py: scans that differ, and among the images copies that an audit finds."""

import importlib
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image as Pillow

from ctmr.audit.audit import audit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_images_are_as_many_and_hold_the_copies_meant(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    data_time = importlib.import_module("data_time")
    rows, columns = np.indices((64, 64)) - 32
    head = np.where(np.hypot(rows, 1.2 * columns) < 24, 120 + 30 * np.sin(rows / 3), 0)
    (tmp_path / "heads/train/ct").mkdir(parents=True)
    Pillow.fromarray(head.astype(np.uint8)).save(tmp_path / "heads/train/ct/a.png")
    data_time.write_images(tmp_path / "heads", "ct", tmp_path / "data", "A", 10)
    assert len(list(tmp_path.glob("data/trainA/*.png"))) == 7
    assert len(list(tmp_path.glob("data/testA/*.png"))) == 3
    report = audit(tmp_path / "data", tmp_path / "audit.json")
    found = [each.files for each in report.findings if each.kind == "near_duplicate"]
    assert any({"trainA/00006.png", "testA/00007.png"} <= set(files) for files in found)


def test_volumes_differ_and_keep_their_grid(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    data_time = importlib.import_module("data_time")
    (tmp_path / "heads/train/mr").mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    volume = nib.nifti1.Nifti1Image(np.zeros((9, 8, 7), np.int16), affine)
    nib.nifti1.save(volume, tmp_path / "heads/train/mr/a.nii.gz")
    data_time.write_volumes(tmp_path / "heads", "mr", tmp_path / "data", "B", 4)
    files = sorted(tmp_path.glob("data/t*B/*.nii.gz"))
    values = [np.asarray(nib.nifti1.load(path).dataobj) for path in files]
    assert len(files) == 4
    assert not any(np.array_equal(values[0], other) for other in values[1:])
    assert np.array_equal(nib.nifti1.load(files[0]).affine, affine)
