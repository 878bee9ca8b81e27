"""Scans below the folder: trees through the whole program."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctmr import evaluate, read_scan, synthesise_head, write_scan
from ctmr.audit.audit import audit
from ctmr.config import PRESETS
from ctmr.data.pairs import find_pairs, read_pair
from ctmr.data.prepare import prepare
from ctmr.errors import DataError, OutputError, UsageError
from ctmr.imaging.image import Image
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import Scale
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.image_info import read_image_info, write_image_info
from ctmr.io.images import write_image
from ctmr.io.reading import Reading
from ctmr.training.validation import pairs_to_choose_by
from ctmr.translation.batch import translate_files
from support.heads import head, save_grey
from support.identity import GREY_8, HU, smooth_head, translator
from support.pictures import save as save_picture
from support.pictures import slices, write_clean_data

CONFIG = PRESETS["small"].data.model_copy(update={"size": 32})


def name_of(n: int) -> str:
    """4 at the top, 36 in two sub-folders and below one of them."""
    if n < 4:
        return f"{n:02d}.png"
    return f"site1/p{n // 8}/{n:02d}.png" if n % 2 else f"site0/{n:02d}.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images: 4 at the top and 36 below in each of two folders."""
    data = tmp_path_factory.mktemp("trees") / "data"
    for folder, modality, start in (("trainA", "ct", 0), ("trainB", "mr", 500)):
        for n in range(40):
            save_grey(data / folder / name_of(n), head(start + n, modality, 36, 40))
    return data


def grey(path: Path, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, 256, (40, 44))
    write_image(path, Image(values.astype(np.float32), "grey", 8))
    return path


def square(path: Path, high: float = 200) -> None:
    write_image(path, Image(smooth_head(32, 32, 0, high), "grey", 8))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# DATA


def test_all_of_80_images_are_trained_on(data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "ctmr.found")
    store = prepare(data, CONFIG, tmp_path / "store")
    for modality in ("ct", "mr"):
        names = [entry.name for entry in store.entries("train", modality)]
        assert sorted(names) == sorted(name_of(n) for n in range(40))
    assert [r.getMessage() for r in caplog.records if r.name == "ctmr.found"] == [
        "trainA: 40 scans, 36 of them in 6 sub-folders",
        "trainB: 40 scans, 36 of them in 6 sub-folders",
    ]


def test_program_shows_how_many_scans_lie_where(data, tmp_path):
    code = "from ctmr.cli import main; main()"
    settings = ["--preset", "small", "--set", "data.size=32"]
    (tmp_path / "data").mkdir()
    for name in ("trainA", "trainB"):
        shutil.copytree(data / name, tmp_path / "data" / name)
    (tmp_path / "data" / "trainA" / "again").symlink_to(data / "trainA")
    command = [sys.executable, "-c", code, "prepare", tmp_path / "data", tmp_path / "s", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines() == [
        "trainA: 40 scans, 36 of them in 6 sub-folders",
        "WARNING: trainA: links to folders are not followed: again (1)",
        "trainB: 40 scans, 36 of them in 6 sub-folders",
    ]


def test_pairs_to_choose_by_may_lie_in_a_tree(tiny_pairs, tmp_path):
    for modality in ("ct", "mr"):
        shutil.copytree(tiny_pairs / modality, tmp_path / "val" / modality / "site/one")
    pairs = pairs_to_choose_by(tmp_path, r"(head\d+)")
    assert [(pair.name, pair.patient, pair.level) for pair in pairs] == [
        (f"site/one/head{n:02d}_slice{k:02d}", f"head{n:02d}", k) for n in (0, 1) for k in (0, 1)
    ]


def test_patients_are_found_in_the_names_of_sub_folders(data, tmp_path):
    config = CONFIG.model_copy(update={"patient_pattern": r"site1/(p\d)/"})
    store = prepare(data, config, tmp_path / "store")
    patients = {entry.name: entry.patient for entry in store.entries("train", "ct")}
    assert patients[name_of(39)] == "p4"
    assert patients["00.png"] is None


def test_ctmr_json_of_a_sub_folder_holds_below_it(tmp_path):
    data = tmp_path / "data"
    for n, name in enumerate(("a.png", "s/b.png", "s/t/c.png", "own/d.png")):
        pixels = np.random.default_rng(n).integers(900, 2000, (40, 40)).astype(np.float32)
        write_image(data / "trainA" / name, Image(pixels, "grey", 16))
        grey(data / "trainB" / name, n)
    write_image_info(data / "trainA", "HU", (1, 1), {"s/t/c.png": (2, 2)})
    write_image_info(data / "trainB", "grey", (1, 1))
    write_image_info(data / "trainA" / "own", "HU", (3, 3))
    one = prepare(data, CONFIG, tmp_path / "one")
    assert list(one.intensities["ct"]) == ["HU"]
    heights = {entry.name: entry.height for entry in one.entries("train", "ct")}
    assert heights["a.png"] == heights["s/b.png"] < heights["s/t/c.png"] < heights["own/d.png"]
    write_image_info(data / "trainA" / "own", "HU", (2, 2))
    assert prepare(data, CONFIG, tmp_path / "two").fingerprint != one.fingerprint
    write_image_info(data / "trainB" / "s" / "t", "HU")
    with pytest.raises(DataError, match="HU exist only for CT") as caught:
        prepare(data, CONFIG, tmp_path / "three")
    assert caught.value.file == str(data / "trainB" / "s" / "t")


def test_tree_is_audited_and_cleaned(tmp_path):
    data = write_clean_data(tmp_path / "data")
    for folder in ("trainA", "trainB"):
        (data / folder / "site" / "deep").mkdir(parents=True)
        for path in sorted((data / folder).glob("*_1.png")):
            path.rename(data / folder / "site" / "deep" / path.name)
    (data / "trainB" / "loop").symlink_to(data / "trainB")
    (data / "testB" / "site").mkdir()
    shutil.copy(data / "trainB/site/deep/p4_1.png", data / "testB/site/same.png")
    report = audit(data, tmp_path / "audit.json", tmp_path / "clean")
    assert report.scans == {"trainA": 12, "trainB": 12, "testA": 4, "testB": 5}
    found = {each.kind: list(each.files) for each in report.findings}
    assert found["identical_train_test"] == ["trainB/site/deep/p4_1.png", "testB/site/same.png"]
    assert found["skipped"] == ["trainB/loop"]
    with (tmp_path / "clean" / "manifest.csv").open(newline="") as file:
        rows = {row["file"]: row["to"] for row in csv.DictReader(file)}
    assert rows["trainA/site/deep/p1_1.png"] == "trainA/site/deep/p1_1.png"
    assert rows["testB/site/same.png"] == ""
    assert files(tmp_path / "clean") == {to for to in rows.values() if to} | {"manifest.csv"}


def test_cleaned_tree_has_no_folder_in_the_place_of_a_scan(tmp_path):
    for n, name in enumerate(("trainA/a.png", "trainB/x.png/p1.png", "testB/x.png", "testA/b.png")):
        save_picture(tmp_path / "data" / name, slices(20 + n, "ct" if "A" in name else "mr")[0])
    save_picture(tmp_path / "data/trainB/y.png", slices(30, "mr")[1])
    shutil.copy(tmp_path / "data/testB/x.png", tmp_path / "data/trainB/z.png")
    audit(tmp_path / "data", tmp_path / "audit.json", tmp_path / "clean")
    cleaned = files(tmp_path / "clean") - {"manifest.csv"}
    assert "trainB/x.png/p1.png" in cleaned
    assert len(cleaned) == 5


def test_cleaned_tree_keeps_units_and_spacings(tmp_path):
    data = write_clean_data(tmp_path / "data")
    (data / "trainB" / "s").mkdir()
    (data / "trainB" / "p4_0.png").rename(data / "trainB" / "s" / "p4_0.png")
    write_image_info(data / "trainB", "grey", (1, 1))
    write_image_info(data / "trainB" / "s", "grey", (2, 2))
    audit(data, tmp_path / "audit.json", tmp_path / "clean")
    spacings = read_image_info(tmp_path / "clean" / "trainB").files
    assert (spacings["p4_1.png"], spacings["s/p4_0.png"]) == ((1, 1), (2, 2))


# INPUT and OUTPUT


def volume(modality: str) -> Volume:
    made = synthesise_head(11, shape=(58, 67, 31), spacing_mm=(3.5, 3.5, 5.0))
    array = made.ct if modality == "ct" else made.mr * (3000 / made.mr.max())
    return Volume(np.rint(array).astype(np.float32), made.affine, modality)


def test_tree_of_three_depths_is_translated_and_mirrored(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    write_scan(source / "a.nii.gz", volume("mr"))
    write_scan(source / "s" / "a.nii.gz", volume("mr"))
    write_image(source / "s" / "t" / "x.png", Image(smooth_head(40, 44, 0, 200), "grey", 8))
    phantom_series(source / "s" / "t" / "series", volume("mr"), name="P", study="S")
    before = {name: (source / name).read_bytes() for name in files(source)}
    mr = {"MR": Intensity("MR", HU.values), "8-bit": GREY_8}
    model = translator(ct={"HU": HU}, mr=mr, scale=Scale(64, 3.5))
    summary = translate_files(
        model, source, out, "ct", quality="none", reading=Reading(anyway=True)
    )
    assert summary.written == 4
    written = files(out)
    assert {name for name in written if not name.startswith("s/t/series/")} == {
        *("a.nii.gz", "a.json", "s/a.nii.gz", "s/a.json"),
        *("s/t/x.png", "s/t/x.json", "s/t/ctmr.json", "s/t/.ctmr-outputs.json", "s/t/series.json"),
    }
    assert len(written) == 9 + 31
    assert {name: (source / name).read_bytes() for name in files(source)} == before
    for name in ("a.nii.gz", "s/a.nii.gz", "s/t/series"):
        assert np.array_equal(
            read_scan(out / name).array.shape, read_scan(source / name).array.shape
        )
    assert read_scan(out / "s" / "t" / "x.png").unit == "HU"
    again = translate_files(
        model, source, out, "ct", quality="none", reading=Reading(anyway=True), resume=True
    )
    assert (again.written, again.kept) == (0, 4)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for n, name in enumerate(("a.png", "s/a.png", "s/b.png", "t/u/a.png")):
        grey(tmp_path / "in" / name, n)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        ("*", {"a.png", "s/a.png", "s/b.png", "t/u/a.png"}),
        ("s/*", {"s/a.png", "s/b.png"}),
        ("*/a.png", {"s/a.png", "t/u/a.png"}),
        ("t/*", {"t/u/a.png"}),
        ("a.png", {"a.png"}),
    ],
)
def test_scans_are_chosen_by_their_relative_paths(tree, tmp_path, only, chosen):
    summary = translate_files(translator(), tree, tmp_path / "out", "ct", only=only)
    assert summary.written == len(chosen)
    pictures = {name for name in files(tmp_path / "out") if name.endswith(".png")}
    previews = {f"{name.removesuffix('.png')}.preview.png" for name in chosen}
    assert pictures == chosen | previews


def test_pattern_that_no_scan_matches_is_refused(tree, tmp_path):
    with pytest.raises(UsageError, match=r"--only 'S/\*': found none among 4, such as") as caught:
        translate_files(translator(), tree, tmp_path / "out", "ct", only="S/*")
    assert "such as a.png, s/a.png, s/b.png, ..." in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_names_of_outputs_do_not_depend_on_the_choice(tree, tmp_path):
    grey(tree / "s" / "a.tif")
    for only in (None, "s/a.*"):
        out = tmp_path / f"out-{only is None}"
        translate_files(translator(), tree, out, "ct", only=only)
        assert {"s/a.png.json", "s/a.tif.json"} <= files(out)
    assert "t/u/a.json" in files(tmp_path / "out-True")


def test_output_below_the_input_is_not_read_again(tree, caplog):
    for _ in range(2):
        assert translate_files(translator(), tree, tree / "s" / "out", "ct").written == 4
    assert f"{tree}: the folder of the output is not read: s/out (1)" in caplog.messages
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(translator(), tree, tree, "ct", only="s/*")


def test_unselected_scans_of_the_input_are_not_overwritten(tree, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "s").symlink_to(tree / "t" / "u")
    with pytest.raises(UsageError, match="would overwrite an input"):
        translate_files(translator(), tree, tmp_path / "out", "ct", only="s/a.png")


def test_bad_scans_are_named_with_their_folders(tree, tmp_path):
    for name in ("s/bad.png", "t/bad.png"):
        (tree / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 scans .* \(s/bad\.png, t/bad\.png\)"):
        translate_files(translator(), tree, tmp_path / "out", "ct")
    summary = translate_files(translator(), tree, tmp_path / "out", "ct", on_error="skip")
    assert summary.skipped == ("s/bad.png", "t/bad.png")


def test_maps_lie_beside_each_translation_and_are_no_scans(tree, tmp_path, caplog):
    translate_files(translator(), tree, tmp_path / "out", "ct", quality="full")
    assert {"quality/a_cycle_error.png", "t/u/quality/a_disagreement.png"} <= files(
        tmp_path / "out"
    )
    caplog.clear()
    assert translate_files(translator(), tmp_path / "out", tmp_path / "back", "mr").written == 4
    assert (
        "maps and figures that ctmr wrote are no scans: a.preview.png, quality/a_cycle_e"
        in caplog.text
    )
    assert "(12)" in caplog.text


def test_scans_in_a_folder_for_maps_are_scans(tree, tmp_path):
    grey(tree / "quality" / "a.png")
    translate_files(translator(), tree, tmp_path / "out", "ct", quality="full")
    assert "quality/quality/a_cycle_error.png" in files(tmp_path / "out")
    grey(tree / "quality" / "a_cycle_error.png")
    with pytest.raises(DataError, match="two inputs would be written to one output"):
        translate_files(translator(), tree, tmp_path / "out", "ct", quality="full")


def test_translated_series_is_no_folder_of_others(tmp_path):
    model = translator(ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(64, 3.5))
    write_scan(tmp_path / "in" / "p.nii.gz", volume("mr"))
    write_scan(tmp_path / "in" / "p" / "a.nii.gz", volume("mr"))
    phantom_series(tmp_path / "like", volume("mr"), name="P", study="S")
    with pytest.raises(DataError, match="two inputs would be written to one output"):
        translate_files(model, tmp_path / "in", tmp_path / "out", "ct", like=tmp_path / "like")


def test_unit_and_spacing_of_a_tree_are_said_in_each_folder(tree, tmp_path):
    write_image_info(tree, "grey", files={"s/a.png": (1, 2)})
    out = tmp_path / "out"
    translate_files(translator(ct={"HU": HU}), tree, out, "ct")
    infos = {folder: read_image_info(out / folder) for folder in ("", "s", "t/u")}
    assert {info.unit for info in infos.values()} == {"HU"}
    assert [dict(info.files) for info in infos.values()] == [{}, {"a.png": (1, 2)}, {}]


def test_grey_images_below_a_folder_in_hu_say_that_they_are_grey(tree, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_image_info(out, "HU")
    translate_files(translator(), tree, out, "ct", only="s/*")
    content = json.loads((out / "s" / "ctmr.json").read_text())
    assert content == {"unit": "grey"}
    grey(out / "t" / "u" / "other.png")
    with pytest.raises(OutputError, match="would lie beside others for which"):
        translate_files(translator(), tree, out, "ct", only="t/*")


def test_scans_below_a_single_series_are_named(tmp_path, caplog):
    model = translator(ct={"HU": HU}, mr={"MR": Intensity("MR", HU.values)}, scale=Scale(64, 3.5))
    phantom_series(tmp_path / "series", volume("mr"), name="P", study="S")
    grey(tmp_path / "series" / "more" / "a.png")
    translate_files(model, tmp_path / "series", tmp_path / "out", "ct", quality="none")
    assert "scans below the folder of a DICOM series are not read: more/a.png (1)" in caplog.text


# PAIRS


def test_pairs_of_trees_match_by_relative_path(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ctmr.found")
    place = tmp_path / "pairs"
    for name in ("a", "p1/a", "p2/s/slice-3"):
        for kind in ("ct", "mr", "mask"):
            square(place / kind / f"{name}.png", 200)
    square(place / "ct" / "p2" / "b.png")
    pairs = find_pairs(place, r"(p\d)/")
    assert [(pair.name, pair.patient, pair.level) for pair in pairs] == [
        ("a", "a", None),
        ("p1/a", "p1", None),
        ("p2/s/slice-3", "p2", 3),
    ]
    assert [pair.mask for pair in pairs] == [place / "mask" / f"{pair.name}.png" for pair in pairs]
    assert "left out 1 scans without a partner: p2/b" in caplog.text
    assert "pairs/ct: 4 scans, 3 of them in 3 sub-folders" in caplog.messages
    write_image_info(place / "ct", "grey", (1, 1), {"p1/a.png": (2, 2)})
    assert [read_pair(pair)["ct"].spacing_mm for pair in pairs] == [(1, 1), (2, 2), (1, 1)]


def test_answers_to_a_tree_of_pairs_are_a_tree(tmp_path):
    for n, name in enumerate(("p1/a", "p2/a")):
        for kind in ("ct", "mr"):
            square(tmp_path / "pairs" / kind / f"{name}.png", 200 - n)
    shutil.copytree(tmp_path / "pairs", tmp_path / "answers")
    found = evaluate(
        translator(),
        tmp_path / "pairs",
        direction="mr-to-ct",
        answers={"other": tmp_path / "answers"},
    )
    assert found.summary["directions"]["mr-to-ct"]["others"]["other"]["mae"]["mean"] == 0
    assert {row.name for row in found.rows} == {"p1/a", "p2/a"}
    os.unlink(tmp_path / "answers" / "ct" / "p2" / "a.png")
    with pytest.raises(DataError, match="found 1 scans, and none for p2/a"):
        evaluate(
            translator(),
            tmp_path / "pairs",
            direction="mr-to-ct",
            answers={"other": tmp_path / "answers"},
        )


def test_two_scans_of_one_name_in_one_folder_of_a_tree_are_refused(tmp_path):
    for name in ("ct/s/a.png", "mr/s/a.png", "mr/s/a.tif"):
        square(tmp_path / name)
    with pytest.raises(DataError, match="two scans are called 's/a'"):
        find_pairs(tmp_path)
