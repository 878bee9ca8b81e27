"""Which sort of scan a path is."""

import os
from pathlib import Path

import pytest

from ctmr.errors import DataError
from ctmr.scan import find_scans, kind_of, read_scan, stem_of


def test_images_are_found_in_the_order_of_their_bytes(tmp_path, caplog):
    names = ["b.png", "B.PNG", "a.jpeg", "a.tif", "-x.png", "x\n.png", "é.png", "10.png", "9.png"]
    for name in [*names, "notes.txt", "ctmr.json", ".hidden.png"]:
        (tmp_path / name).write_bytes(b"x")
    raw = os.fsdecode(b"\xff.png")
    (tmp_path / raw).write_bytes(b"x")
    (tmp_path / "sub.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    found = [path.name for path in find_scans(tmp_path)]
    assert found == sorted([*names, raw], key=os.fsencode)
    assert "skipped 1 files that are no scans by name" in caplog.text
    for name in ("fifo.png", "dangling.png", "loop.png"):
        assert f"{name}: skipped, it is not a regular file" in caplog.text


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot list the folder"):
        find_scans(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "stem", "kind"),
    [
        ("a.b.nii.gz", "a.b", "nifti"),
        ("A.NII", "A", "nifti"),
        ("a.b.png", "a.b", "image"),
        ("a.JPG", "a", "image"),
        ("series.1", "series.1", None),
    ],
)
def test_suffix_tells_the_kind(name, stem, kind):
    assert stem_of(Path(name)) == stem
    assert kind_of(Path(name)) == kind


def test_folder_without_a_series_is_no_scan(tmp_path):
    assert kind_of(tmp_path) is None
    with pytest.raises(DataError, match="found a folder that is not a DICOM series"):
        read_scan(tmp_path)
