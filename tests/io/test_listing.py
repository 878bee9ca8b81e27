"""Which scans lie in a tree, and that nothing is left out of it unsaid."""

import hashlib
import logging
import os
import re
import zipfile

import pytest

from ctmr.errors import DataError
from ctmr.io.listing import find_scans, list_scans, stem_below
from ctmr.system.ownership import sealed
from support.dicom_series import make, put


@pytest.fixture(autouse=True)
def counted(caplog):
    caplog.set_level(logging.INFO, "ctmr.found")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found_in(folder):
    return [scan.below(folder) for scan in find_scans(folder)]


# Which scans


def test_images_are_found_in_the_order_of_their_bytes(tmp_path, caplog):
    names = ["b.png", "B.PNG", "a.jpeg", "a.tif", "-x.png", "x\n.png", "é.png", "10.png", "9.png"]
    touch(tmp_path, *names, "notes.txt", "ctmr.json", ".hidden.png")
    raw = os.fsdecode(b"\xff.png")
    touch(tmp_path, raw)
    (tmp_path / "sub.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert found_in(tmp_path) == sorted([*names, raw, "dangling.png"], key=os.fsencode)
    assert caplog.messages == [
        f"{tmp_path}: 11 scans",
        f"{tmp_path}: hidden scans and folders are not read: .hidden.png (1)",
        f"{tmp_path}: pipes, devices and links in a circle are no regular files:"
        " fifo.png, loop.png (2)",
        f"{tmp_path}: files that are no scans by name are skipped: notes.txt (1)",
    ]


def test_tree_is_read_in_the_order_of_the_bytes_of_its_paths(tmp_path, caplog):
    names = ["a-b/x.png", "a.png", "a/b/c/y.nii.gz", "a/x.png", "b/z.tif"]
    touch(tmp_path, *reversed(names))
    make(tmp_path / "a" / "b" / "series")
    expected = sorted([*names, "a/b/series"], key=os.fsencode)
    assert found_in(tmp_path) == expected
    assert caplog.messages == [f"{tmp_path}: 6 scans, 5 of them in 5 sub-folders"]


def test_one_scan_is_not_many(tmp_path, caplog):
    touch(tmp_path, "sub/a.png")
    find_scans(tmp_path, "INPUT")
    assert caplog.messages == ["INPUT: 1 scan, 1 of them in 1 sub-folder"]


@pytest.mark.parametrize(("deep", "scans"), [(8, 1), (9, 0)])
def test_tree_is_read_eight_folders_deep(tmp_path, caplog, deep, scans):
    folders = "/".join(map(str, range(1, deep + 1)))
    touch(tmp_path, f"{folders}/a.png")
    assert len(find_scans(tmp_path)) == scans
    warnings = [message for message in caplog.messages if "are not read" in message]
    what = f"{tmp_path}: folders more than 8 levels down are not read: 1/2/3/4/5/6/7/8/9 (1)"
    assert warnings == ([] if scans else [what])


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path, caplog):
    touch(tmp_path / "in", "a/x.png")
    touch(tmp_path, "far/y.png")
    (tmp_path / "in" / "z.png").symlink_to(tmp_path / "far" / "y.png")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for root in ("in", "root"):
        caplog.clear()
        assert found_in(tmp_path / root) == ["a/x.png", "z.png"]
        assert caplog.messages[1:] == [
            f"{tmp_path / root}: links to folders are not followed: a/loop, far (2)"
        ]


def test_stem_of_a_tree_has_its_folders(tmp_path):
    assert stem_below(tmp_path / "a.b" / "c.nii.gz", tmp_path) == "a.b/c"
    assert stem_below(tmp_path / "a.b" / "series.1", tmp_path) == "a.b/series.1"


# What is left out


def test_first_three_of_what_is_left_out_are_named(tmp_path, caplog):
    touch(tmp_path, "a.png", "s/1.txt", "s/2.txt", "s/3\n.txt", "s/4.txt")
    find_scans(tmp_path)
    assert caplog.messages[1].endswith("skipped: s/1.txt, s/2.txt, s/3\\n.txt, ... (4)")


def test_hidden_scans_and_folders_are_named(tmp_path, caplog):
    touch(tmp_path, "a.png", "s/._a.png", ".thumbs/b.png", ".DS_Store")
    assert found_in(tmp_path) == ["a.png"]
    assert "hidden scans and folders are not read: .thumbs, s/._a.png (2)" in caplog.text


def test_json_of_a_scan_beside_it_is_not_worth_a_word(tmp_path, caplog):
    touch(tmp_path, "s/a.nii.gz", "s/a.json", "s/b.png", "s/b.png.json", "s/ctmr.json")
    make(tmp_path / "series")
    touch(tmp_path, "series.json", "s/other.json")
    find_scans(tmp_path)
    assert caplog.messages[1:] == [
        f"{tmp_path}: files that are no scans by name are skipped: s/other.json (1)"
    ]


def test_run_in_a_tree_is_left_out(tmp_path, caplog):
    touch(tmp_path, "a.png", "run/run.lock", "run/config.yaml", "run/samples/1.png")
    touch(tmp_path, "mine/config.yaml", "mine/b.png")
    assert found_in(tmp_path) == ["a.png", "mine/b.png"]
    assert "run folders are not read: run (1)" in caplog.text


def test_output_in_a_tree_is_left_out(tmp_path, caplog):
    touch(tmp_path, "a.png", "sub/b.png", "sub/out/c.png")
    output = tmp_path / "sub" / "x" / ".." / "out"
    listing = list_scans(tmp_path, output=output)
    assert [scan.path.name for scan in listing.scans] == ["a.png", "b.png"]
    assert listing.left_out == {"the folder of the output is not read": [tmp_path / "sub" / "out"]}
    assert len(list_scans(tmp_path, output=tmp_path).scans) == 3


def test_scans_below_a_series_are_named(tmp_path, caplog):
    make(tmp_path / "p" / "series")
    touch(tmp_path, "p/series/more/a.png", "p/series/more/notes.txt")
    make(tmp_path / "p" / "series" / "other")
    (tmp_path / "p" / "series" / "link").symlink_to(tmp_path)
    assert found_in(tmp_path) == ["p/series"]
    below = "scans below the folder of a DICOM series are not read"
    assert f"{below}: p/series/more/a.png, p/series/other (2)" in caplog.text
    assert "links to folders are not followed: p/series/link (1)" in caplog.text


def test_maps_are_known_by_the_sidecar_that_names_them(tmp_path, caplog):
    touch(tmp_path, "a.png", "quality/a_cycle_error.png", "quality/a_mine.png", "quality/b_c.png")
    digest = hashlib.sha256(b"x").hexdigest()
    content = {"result": "a.png", "outputs": {"a.png": digest, "quality/a_cycle_error.png": digest}}
    (tmp_path / "a.json").write_bytes(sealed(content))
    assert found_in(tmp_path) == ["a.png", "quality/a_mine.png", "quality/b_c.png"]
    assert "ctmr wrote are no scans: quality/a_cycle_error.png (1)" in caplog.text
    (tmp_path / "quality" / "a_cycle_error.png").write_bytes(b"changed by hand")
    assert "quality/a_cycle_error.png" in found_in(tmp_path)


# What must be put right


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: cannot list the folder"):
        find_scans(tmp_path / "nowhere")


def test_sub_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "sub/b.png")
    listed = os.listdir

    def refused(path):
        if path == tmp_path / "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("ctmr.io.listing.os.listdir", refused)
    with pytest.raises(DataError, match=r"sub: cannot list the folder \(Permission denied\)"):
        find_scans(tmp_path)


def test_pictures_beside_dicom_files_are_left_out_and_volumes_are_scans(tmp_path, caplog):
    make(tmp_path / "a" / "b" / "series")
    touch(tmp_path, "a/b/series/x.png", "a/b/series/y.nii.gz")
    assert found_in(tmp_path) == ["a/b/series", "a/b/series/y.nii.gz"]
    assert "files that are not DICOM are not read: a/b/series/x.png (1)" in caplog.text


def test_loose_dicom_files_are_scans_with_a_name_of_their_own(tmp_path):
    make(tmp_path)
    (scan,) = list_scans(tmp_path).scans
    assert scan.path == tmp_path
    assert re.fullmatch(r"s[0-9a-f]+_1", scan.below(tmp_path))
    assert scan.modality == "ct"


# Series in one folder or archive


def test_pictures_beside_slices_are_previews_and_slices_at_the_root_a_series(tmp_path, caplog):
    make(tmp_path / "a" / "series")
    touch(tmp_path, "a/series/x.png")
    assert found_in(tmp_path) == ["a/series"]
    assert "files that are not DICOM are not read: a/series/x.png (1)" in caplog.text
    assert len(found_in(tmp_path / "a" / "series")) == 1


def zipped(path, folder):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"study/{file.name}")


def test_archive_goes_by_its_name_and_each_of_several_series_in_it_by_its_number(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "in" / "p").mkdir(parents=True)
    put(tmp_path / "one", 3)
    zipped(tmp_path / "in" / "p" / "one.zip", tmp_path / "one")
    put(tmp_path / "one", 4, modality="mr")
    zipped(tmp_path / "in" / "two.zip", tmp_path / "one")
    scans = find_scans(tmp_path / "in")
    assert [scan.below(tmp_path / "in") for scan in scans] == [
        "p/one.zip",
        "two.zip/s3_1",
        "two.zip/s4_1",
    ]
    assert [scan.stem(tmp_path / "in") for scan in scans] == ["p/one", "two/s3_1", "two/s4_1"]
    assert [scan.modality for scan in scans] == ["ct", "ct", "mr"]


def test_archive_beside_slices_is_left_out(tmp_path, caplog):
    make(tmp_path / "in" / "series")
    zipped(tmp_path / "a.zip", tmp_path / "in" / "series")
    (tmp_path / "a.zip").rename(tmp_path / "in" / "series" / "a.zip")
    assert found_in(tmp_path / "in") == ["series"]
    assert "files that are not DICOM are not read: series/a.zip (1)" in caplog.text


def test_archive_that_is_damaged_is_left_to_its_reader(tmp_path):
    touch(tmp_path, "a.zip")
    assert found_in(tmp_path) == ["a.zip"]
