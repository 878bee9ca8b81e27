import os
import shutil

import pytest

from ctmr.audit.inventory import MIN_FOR_PROCESSES, take_inventory
from ctmr.errors import DataError, UsageError
from ctmr.results import Finding
from support.dicom_series import make
from support.pictures import save, slices


@pytest.fixture
def data(tmp_path):
    for folder, modality in (("trainA", "ct"), ("trainB", "mr")):
        for k, pixels in enumerate(slices(1, modality)[:2]):
            save(tmp_path / folder / f"p1_{k}.png", pixels)
    return tmp_path


def found_of(data, kind):
    return [each for each in take_inventory(data, None).findings if each.kind == kind]


def test_every_scan_is_looked_at_in_order(data):
    calls = []
    found = take_inventory(data, None, lambda done, total: calls.append((done, total)))
    labels = [picture.label for picture in found.pictures]
    assert labels == ["trainA/p1_0.png", "trainA/p1_1.png", "trainB/p1_0.png", "trainB/p1_1.png"]
    assert found.folders == {("train", "ct"): "trainA", ("train", "mr"): "trainB"}
    assert found.scans == 4
    assert found.findings == ()
    assert calls == [(n, 4) for n in (1, 2, 3, 4)]


def test_patients_are_named_by_the_pattern(data):
    found = take_inventory(data, r"/(p\d+)_")
    assert {picture.patient for picture in found.pictures} == {"p1"}
    with pytest.raises(UsageError, match="has no group"):
        take_inventory(data, "p")


def test_bad_files_are_findings_and_the_others_go_on(data):
    (data / "trainB" / "empty.png").touch()
    (data / "trainB" / "cut.png").write_bytes((data / "trainB" / "p1_0.png").read_bytes()[:200])
    found = take_inventory(data, None)
    assert len(found.pictures) == 4
    assert found.scans == 6
    assert [(each.kind, each.level, each.files) for each in found.findings] == [
        ("unreadable", "error", ("trainB/cut.png",)),
        ("unreadable", "error", ("trainB/empty.png",)),
    ]


@pytest.mark.parametrize("name", [b"pipe.png", b"loop.nii", b"zero.png"])
def test_what_is_no_file_is_skipped_with_a_warning(data, name):
    path = os.fsencode(data / "trainA") + b"/" + name
    if name == b"pipe.png":
        os.mkfifo(path)
    else:
        os.symlink({b"l": name, b"z": b"/dev/zero"}[name[:1]], path)
    (finding,) = take_inventory(data, None).findings
    assert (finding.kind, finding.level) == ("skipped", "warning")
    assert finding.files == (f"trainA/{name.decode()}",)
    assert "no regular file" in finding.why


def test_other_files_are_noted_and_hidden_ones_are_not(data):
    (data / "trainA" / "notes.txt").touch()
    (data / "trainA" / "sub").mkdir()
    (data / "trainA" / ".hidden").touch()
    (data / "trainA" / "ctmr.json").write_text("{}")
    (finding,) = take_inventory(data, None).findings
    assert finding == Finding(
        "skipped",
        "note",
        ("trainA/notes.txt",),
        "files that are no scans by name are skipped",
    )


def test_names_that_are_no_text_are_escaped(data):
    save(data / "trainA" / "new\nline.png", slices(2, "ct")[0])
    odd = os.fsencode(data / "trainA") + b"/\xff.png"
    os.rename(data / "trainA" / "p1_0.png", odd)
    labels = [picture.label for picture in take_inventory(data, None).pictures]
    assert "trainA/new\nline.png" in labels
    assert "trainA/\\xff.png" in labels


def test_loose_dicom_files_are_a_scan_and_a_picture_beside_them_is_skipped(data):
    make(data / "trainA" / "series")
    for path in (data / "trainA" / "series").iterdir():
        path.rename(data / "trainB" / path.name)
    save(data / "trainA" / "series" / "x.png", slices(1, "ct")[0])
    found = take_inventory(data, None)
    assert found.scans == 4  # 3 images and the series; the images beside it are previews
    assert any(label.startswith("trainB/s") for f in found.findings for label in f.files)


def test_wrong_ctmr_json_is_an_error_and_its_images_are_looked_at(data):
    (data / "trainA" / "ctmr.json").write_text('{"unit": "furlong"}')
    (data / "trainB" / "ctmr.json").write_text('{"unit": "HU", "slope": 1, "intercept": -1024}')
    found = take_inventory(data, None)
    assert [each.files for each in found.findings] == [("trainA/ctmr.json",), ("trainB/ctmr.json",)]
    assert "HU exist only for CT" in found.findings[1].why
    assert {each.kind for each in found.findings} == {"ctmr_json"}
    assert len(found.pictures) == 4


def test_folder_that_cannot_be_listed_is_an_error(data, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("ctmr.audit.inventory.os.listdir", refused)
    found = take_inventory(data, None)
    assert [each.files for each in found.findings] == [("trainA",), ("trainB",)]
    assert found.findings[0].why == "cannot list the folder (Permission denied)"


def test_folder_without_layout_is_refused(tmp_path):
    with pytest.raises(DataError, match="no folder trainA"):
        take_inventory(tmp_path, None)


def test_folder_of_one_modality_is_looked_at(data):
    shutil.rmtree(data / "trainA")
    found = take_inventory(data, None)
    assert ("train", "ct") not in found.folders
    assert ("train", "mr") in found.folders
    assert found.pictures


def test_many_scans_are_looked_at_in_processes(data):
    content = (data / "trainA" / "p1_0.png").read_bytes()
    for n in range(MIN_FOR_PROCESSES):
        (data / "trainA" / f"q{n:03d}.png").write_bytes(content)
    (data / "trainB" / "empty.png").touch()
    found = take_inventory(data, None)
    assert len(found.pictures) == MIN_FOR_PROCESSES + 4
    assert len({picture.digest for picture in found.pictures}) == 4
    assert [each.files for each in found.findings] == [("trainB/empty.png",)]
