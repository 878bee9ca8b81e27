import csv
import dataclasses
import json
import os

import numpy as np
import pytest

from ctmr.audit.clean import plan_cleaning, write_clean
from ctmr.audit.inventory import Inventory, take_inventory
from ctmr.audit.leaks import clusters, copies_of
from ctmr.errors import DataError
from ctmr.io.image_info import ImageInfo
from ctmr.results import Finding
from support.dicom_series import make
from support.pictures import picture, save, slices

FOLDERS = {
    ("train", "ct"): "trainA",
    ("train", "mr"): "trainB",
    ("test", "ct"): "testA",
    ("test", "mr"): "testB",
}


def planned(pictures, labels=None, findings=(), folders=FOLDERS):
    labels = np.arange(len(pictures)) if labels is None else np.array(labels)
    inventory = Inventory(tuple(pictures), tuple(findings), len(pictures), folders)
    return plan_cleaning(inventory, findings, labels)


def places(cleaning):
    return {kept.picture.label: f"{kept.folder}/{kept.name}" for kept in cleaning.kept}


def some(folder, *names, **about):
    return [picture(f"{folder}/{name}.png", **about) for name in names]


def test_clusters_are_whole_on_one_side_and_the_rest_stays():
    pictures = [*some("trainA", "a"), *some("trainB", *"bcdefg"), *some("testB", *"hij")]
    labels = [0, 1, 2, 3, 4, 5, 6, 6, 7, 8]
    found = places(planned(pictures, labels))
    assert found.pop("testB/h.png") in ("testB/h.png", "trainB/h.png")
    moved = {label for label, place in found.items() if label != place}
    assert moved <= {"trainB/g.png"}
    sides = {
        place.partition("/")[0]
        for label, place in places(planned(pictures, labels)).items()
        if label[-5] in "gh"
    }
    assert len(sides) == 1


def test_shares_of_training_and_test_stay_about_the_same():
    pictures = some("trainA", "x") + [
        picture(f"{folder}/{n}.png") for n in range(60) for folder in ("trainB", "testB")
    ]
    labels = [0, *(1 + n // 2 for n in range(120))]
    found = planned(pictures, labels)
    counts = found.counted().kept
    assert abs(counts["trainB"] - counts["testB"]) <= 4
    assert found.counted().moved == 60
    sides = {}
    for kept in found.kept:
        sides.setdefault(found.clusters[kept.picture.label], set()).add(kept.split)
    assert all(len(each) == 1 for each in sides.values())


def test_only_the_first_of_equal_pictures_is_kept():
    pictures = [
        *some("trainA", "a"),
        *some("trainB", "b", digest="x"),
        *some("testB", "c", digest="x"),
    ]
    found = planned(pictures, [0, 1, 1])
    assert found.left_out == {"testB/c.png": "the same pixels as trainB/b.png"}


def test_what_cannot_be_used_or_is_surely_of_the_other_modality_is_left_out():
    pictures = [*some("trainA", "a"), *some("trainB", "b", "sure", "doubtful", "blank")]
    findings = [
        Finding("unreadable", "error", ("trainB/bad.png",), "cut"),
        Finding("skipped", "note", ("trainB/notes.txt",), "no scan"),
        Finding("wrong_modality", "error", ("trainB/sure.png",), "CT"),
        Finding("wrong_modality", "warning", ("trainB/doubtful.png",), "CT?"),
        Finding("blank", "warning", ("trainB/blank.png",), "nothing"),
        Finding("saturated", "warning", ("trainA/a.png",), "clipped"),
    ]
    found = planned(pictures, None, findings)
    assert set(places(found)) == {"trainA/a.png", "trainB/b.png", "trainB/doubtful.png"}
    assert found.left_out["trainB/bad.png"] == "cut"
    assert len(found.left_out) == 4


def test_folder_of_the_other_modality_is_left_out_and_may_leave_nothing():
    pictures = [*some("trainA", "a"), *some("trainB", "b"), *some("testB", "c")]
    wrong = [Finding("wrong_modality", "error", ("testB",), "CT")]
    assert set(planned(pictures, None, wrong).left_out) == {"testB", "testB/c.png"}
    exchanged = [Finding("exchanged_folders", "error", ("trainA", "trainB"), "exchange them")]
    with pytest.raises(DataError, match="expected CT to train on: found none that is left"):
        planned(pictures, None, exchanged)


def test_wrong_ctmr_json_must_be_corrected_first():
    wrong = [Finding("ctmr_json", "error", ("trainA/ctmr.json",), "unit furlong")]
    with pytest.raises(DataError, match="expected to know the unit of the images: unit furlong"):
        planned([*some("trainA", "a"), *some("trainB", "b")], None, wrong)


def test_moved_picture_whose_name_is_taken_gets_its_former_side_before_it():
    pictures = [*some("trainA", "a"), *some("trainB", "x", "y"), *some("testB", "X", "Z")]
    # testB/X shows the same as trainB/y: whichever way they go, no name is taken twice.
    found = planned(pictures, [0, 1, 2, 2, 3])
    names = [name.lower() for name in places(found).values()]
    assert len(set(names)) == len(names)
    together = {places(found)[label].partition("/")[0] for label in ("trainB/y.png", "testB/X.png")}
    assert len(together) == 1
    if together == {"trainB"}:
        assert places(found)["testB/X.png"] == "trainB/test-X.png"


def test_folder_that_was_not_there_is_named_by_the_layout():
    folders = {("train", "ct"): "train/ct", ("train", "mr"): "train/mr", ("test", "mr"): "test/mr"}
    pictures = [
        picture(f"{folder}/{n}.png")
        for n, folder in enumerate(("train/ct", "train/ct", "train/mr", "test/mr"))
    ]
    found = planned(pictures, [0, 1, 2, 1], folders=folders)
    assert {kept.folder for kept in found.kept} <= {"train/ct", "train/mr", "test/ct", "test/mr"}


@pytest.fixture
def data(tmp_path):
    data = tmp_path / "data"
    for folder, modality, seed in (("trainA", "ct", 60), ("trainB", "mr", 61), ("testB", "mr", 62)):
        for k, pixels in enumerate(slices(seed, modality)):
            save(data / folder / f"p{seed}_{k}.png", pixels)
    save(data / "testB" / "copy.png", slices(61, "mr")[0])
    save(data / "testB" / "mirrored.png", 0.8 * slices(61, "mr")[1][:, ::-1])
    (data / "trainB" / "bad.png").write_bytes(b"")
    return data


def clean(data, out):
    inventory = take_inventory(data, None)
    same = clusters(inventory.pictures, copies_of(inventory.pictures))
    cleaning = plan_cleaning(inventory, inventory.findings, same)
    write_clean(out, cleaning)
    with (out / "manifest.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_cleaned_copy_has_no_leak_and_a_manifest_of_every_file(data, tmp_path):
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    rows = clean(data, tmp_path / "clean")
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before
    assert set(rows) == {path.relative_to(data).as_posix() for path in before}
    for label, row in rows.items():
        if row["to"]:
            assert (tmp_path / "clean" / row["to"]).read_bytes() == before[data / label]
            assert row["how"] == "hard link"
        else:
            assert row["why"]
    assert rows["trainB/bad.png"]["why"].startswith("expected a PNG")
    assert rows["testB/copy.png"]["why"] == "the same pixels as trainB/p61_0.png"
    pair = rows["trainB/p61_1.png"], rows["testB/mirrored.png"]
    assert pair[0]["cluster"] == pair[1]["cluster"]
    assert len({row["to"].partition("/")[0] for row in pair}) == 1
    assert {row["why"] for row in pair} == {
        "kept",
        "moved: the same, or the same patient, was on both sides",
    }
    written = {
        path.relative_to(tmp_path / "clean").as_posix()
        for path in (tmp_path / "clean").rglob("*.png")
    }
    assert written == {row["to"] for row in rows.values()} - {""}


def test_files_are_copied_where_links_are_not_possible(data, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("ctmr.audit.clean.os.link", refused)
    rows = clean(data, tmp_path / "clean")
    assert rows["trainA/p60_0.png"]["how"] == "copy"
    assert (tmp_path / "clean" / "trainA" / "p60_0.png").stat().st_nlink == 1


def test_link_is_followed_so_that_the_copy_stands_alone(data, tmp_path):
    os.symlink(data / "trainA" / "p60_0.png", data / "trainA" / "a_link.png")
    (data / "trainA" / "p60_0.png").rename(tmp_path / "elsewhere.png")
    os.unlink(data / "trainA" / "a_link.png")
    os.symlink(tmp_path / "elsewhere.png", data / "trainA" / "link.png")
    clean(data, tmp_path / "clean")
    assert not (tmp_path / "clean" / "trainA" / "link.png").is_symlink()


def test_units_and_spacings_go_along(data, tmp_path):
    info = {"unit": "HU", "slope": 2, "intercept": -1000, "spacing_mm": [1, 1]}
    info["files"] = {"p60_1.png": {"spacing_mm": [0.5, 0.5]}}
    (data / "trainA" / "ctmr.json").write_text(json.dumps(info))
    clean(data, tmp_path / "clean")
    content = json.loads((tmp_path / "clean" / "trainA" / "ctmr.json").read_text())
    assert (content["unit"], content["slope"], content["intercept"]) == ("HU", 2, -1000)
    assert content["files"]["p60_0.png"] == {"spacing_mm": [1, 1]}
    assert content["files"]["p60_1.png"] == {"spacing_mm": [0.5, 0.5]}
    assert not (tmp_path / "clean" / "trainB" / "ctmr.json").exists()


def test_two_units_do_not_go_into_one_folder(tmp_path):
    pictures = [*some("trainA", "a"), *some("testA", "b"), *some("trainB", "c")]
    hu = dataclasses.replace(pictures[1].source, info=ImageInfo("HU", 1.0, -1024.0))
    pictures[1] = dataclasses.replace(pictures[1], source=hu)
    for each in pictures:
        path = save(tmp_path / each.source.path, np.zeros((32, 32)))
        entry = dataclasses.replace(each.source, path=path)
        pictures[pictures.index(each)] = dataclasses.replace(each, source=entry)
    cleaning = planned(pictures, [0, 0, 1])
    with pytest.raises(DataError, match="expected one unit for the images of"):
        write_clean(tmp_path / "clean", cleaning)
    assert not (tmp_path / "clean").exists()


def test_series_goes_along_file_by_file(tmp_path):
    data = tmp_path / "data"
    make(data / "trainB" / "head", modality="mr")
    save(data / "trainA" / "a.png", slices(60, "ct")[0])
    rows = clean(data, tmp_path / "clean")
    assert rows["trainB/head"]["to"] == "trainB/head"
    names = {path.name for path in (data / "trainB" / "head").iterdir()}
    assert {path.name for path in (tmp_path / "clean" / "trainB" / "head").iterdir()} == names
