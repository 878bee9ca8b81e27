"""What a file is by its first bytes, whatever it is called."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctmr import Volume, write_scan
from ctmr.io.dicom.writer import phantom_series
from ctmr.viewer.sniff import suffix_of

SCAN = Volume(np.arange(4 * 4 * 3, dtype=np.float32).reshape(4, 4, 3), np.eye(4), "mr")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".mgh", ".mgz"])
def test_volumes(tmp_path: Path, suffix: str) -> None:
    write_scan(tmp_path / ("a" + suffix), SCAN)
    (tmp_path / ("a" + suffix)).rename(tmp_path / "photo.png")
    assert suffix_of(tmp_path / "photo.png") == suffix


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tif")])
def test_pictures(tmp_path: Path, kind: str, suffix: str) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.dcm", kind)
    assert suffix_of(tmp_path / "a.dcm") == suffix


def test_dicom(tmp_path: Path) -> None:
    (path, *_) = phantom_series(tmp_path, SCAN, name="A", study="x")
    assert suffix_of(path) == ".dcm"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
        b"\x80\x04\x95pickle",
        b"\x1f\x8b\x08\0",
        gzip.compress(b"text" * 100, mtime=0),
        b"GIF89a" + bytes(600),
        b"%PDF-1.7",
        bytes(600),
        b"\x08\0\0\0\0\0\0\0{}",  # of safetensors
    ],
)
def test_others_are_no_scan(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert suffix_of(tmp_path / "a.nii.gz") is None
