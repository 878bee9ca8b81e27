import json
import shutil

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from ctmr.audit.audit import Faulty, audit, page_of
from ctmr.cli.app import app
from ctmr.errors import DataError, OutputError, UsageError
from ctmr.imaging.volume import Volume
from ctmr.io.dicom.writer import phantom_series
from ctmr.results import AuditReport
from ctmr.synthetic.head import synthesise_head
from support.dicom_series import edit_all
from support.pictures import save, slices, write_clean_data


@pytest.fixture(scope="module")
def clean_data(tmp_path_factory):
    return write_clean_data(tmp_path_factory.mktemp("clean") / "data")


@pytest.fixture(scope="module")
def faulty_data(clean_data, tmp_path_factory):
    """The clean data with one fault of each sort."""
    data = tmp_path_factory.mktemp("faulty") / "data"
    shutil.copytree(clean_data, data)
    shutil.copy(data / "trainB" / "p4_0.png", data / "testB" / "same.png")
    save(data / "testB" / "mirrored.jpg", 0.8 * slices(4, "mr")[1][:, ::-1], quality=80)
    save(data / "trainB" / "ct.png", slices(9, "ct")[1])
    save(data / "trainB" / "black.png", np.zeros((96, 96)))
    (data / "trainB" / "cut.png").write_bytes((data / "trainB" / "p4_0.png").read_bytes()[:500])
    clipped = np.clip(4 * slices(10, "ct")[1], 0, 255)
    save(data / "trainA" / "clipped.png", clipped)
    large = Pillow.fromarray(slices(10, "mr")[2].astype(np.uint8)).resize((192, 192))
    save(data / "trainB" / "large.png", np.asarray(large))
    return data


def run(*arguments):
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def files_of(report, kind, level=None):
    found = [each for each in report["findings"] if each["kind"] == kind]
    return [each["files"] for each in found if level in (None, each["level"])]


def test_data_without_faults_has_no_findings(clean_data, tmp_path):
    report = audit(clean_data, tmp_path / "audit.json").as_json()
    assert report["findings"] == []
    assert report["errors"] == report["warnings"] == report["notes"] == 0
    assert report["scans"] == {"trainA": 12, "trainB": 12, "testA": 4, "testB": 4}


def test_every_fault_is_found_by_its_name(faulty_data, tmp_path):
    report = audit(faulty_data, tmp_path / "audit.json").as_json()
    assert files_of(report, "identical_train_test") == [["trainB/p4_0.png", "testB/same.png"]]
    assert files_of(report, "near_duplicate") == [["trainB/p4_1.png", "testB/mirrored.jpg"]]
    assert files_of(report, "wrong_modality") == [["trainB/ct.png"]]
    assert files_of(report, "blank") == [["trainB/black.png"]]
    assert files_of(report, "unreadable") == [["trainB/cut.png"]]
    assert files_of(report, "saturated") == [["trainA/clipped.png"], ["trainB/ct.png"]]
    assert files_of(report, "mixed_sizes") == [["trainB"]]
    assert report["errors"] == 4
    levels = [each["level"] for each in report["findings"]]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert json.loads((tmp_path / "audit.json").read_text()) == report
    assert (tmp_path / "audit.html").read_text().startswith("<!doctype html>")


def test_same_data_gives_the_same_report(faulty_data, tmp_path):
    for name in ("one", "other"):
        audit(faulty_data, tmp_path / f"{name}.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_cleaned_copy_has_no_error(faulty_data, tmp_path):
    before = sorted(path.name for path in faulty_data.rglob("*"))
    report = audit(faulty_data, tmp_path / "audit.json", tmp_path / "clean").as_json()
    assert report["cleaned"]["left_out"] == 4
    again = audit(tmp_path / "clean", tmp_path / "again.json").as_json()
    assert again["errors"] == 0
    assert sum(again["scans"].values()) == sum(report["cleaned"]["kept"].values()) == 35
    assert sorted(path.name for path in faulty_data.rglob("*")) == before


def test_patient_pattern_finds_patients_on_both_sides(clean_data, tmp_path):
    shutil.copytree(clean_data, tmp_path / "data")
    (tmp_path / "data" / "testB" / "p8_3.png").rename(tmp_path / "data" / "testB" / "p4_9.png")
    report = audit(tmp_path / "data", tmp_path / "a.json", patient_pattern=r"/(p\d+)_").as_json()
    (files,) = files_of(report, "patient_train_test", "error")
    assert files == [*(f"trainB/p4_{k}.png" for k in range(4)), "testB/p4_9.png"]


def test_findings_are_written_though_nothing_is_left_to_clean(tmp_path):
    for folder, modality, seed in (("trainA", "mr", 4), ("trainB", "wide", 1)):
        for k, pixels in enumerate(slices(seed, modality)):
            save(tmp_path / "data" / folder / f"{k}.png", pixels)
    with pytest.raises(DataError, match="found none that is left when cleaned"):
        audit(tmp_path / "data", tmp_path / "a.json", tmp_path / "clean")
    report = json.loads((tmp_path / "a.json").read_text())
    assert files_of(report, "exchanged_folders") == [["trainA", "trainB"]]
    assert not (tmp_path / "clean").exists()


def test_no_text_of_a_dicom_header_is_written(tmp_path):
    head = synthesise_head(1, shape=(36, 42, 20), spacing_mm=(5.0, 5.0, 8.0))
    arrays = {"ct": np.rint(head.ct), "mr": np.rint(head.mr)}
    for folder, modality, split in (("trainA", "ct", 1), ("trainB", "mr", 2), ("testB", "mr", 2)):
        series = tmp_path / "data" / folder / "series"
        volume = Volume(arrays[modality].astype(np.float32), head.affine, modality)
        phantom_series(series, volume, name="P", study="S")
        edit_all(
            series, PatientID=f"CANARY-{split}", PatientName="CANARY", StudyDescription="CANARY"
        )
    report = audit(tmp_path / "data", tmp_path / "a.json", tmp_path / "clean").as_json()
    assert files_of(report, "patient_train_test") == [["trainB/series", "testB/series"]]
    written = [tmp_path / "a.json", tmp_path / "a.html", tmp_path / "clean" / "manifest.csv"]
    assert not any(b"CANARY" in path.read_bytes() for path in written)


@pytest.mark.parametrize("option", ["--out", "--clean"])
def test_nothing_is_written_into_the_data_folder(clean_data, tmp_path, option):
    before = sorted(clean_data.rglob("*"))
    place = clean_data / ("audit.json" if option == "--out" else "clean")
    others = [] if option == "--out" else ["--out", tmp_path / "a.json"]
    result = run(clean_data, option, place, *others)
    assert result.exit_code == 2
    assert "an audit writes nothing into the data folder" in result.stderr
    assert sorted(clean_data.rglob("*")) == before


def test_out_must_be_json_and_clean_new(clean_data, tmp_path):
    with pytest.raises(UsageError, match=r"expected a file that ends in \.json: found '\.html'"):
        audit(clean_data, tmp_path / "audit.html")
    (tmp_path / "something").touch()
    with pytest.raises(OutputError, match="expected a new or empty folder"):
        audit(clean_data, tmp_path.parent / "a.json", tmp_path)


def test_command_shows_a_table_and_ends_well_without_errors(clean_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(clean_data, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1]) == json.loads(
        (tmp_path / "audit.json").read_text()
    )
    assert "report: audit.html" in result.stdout


def test_command_ends_with_3_and_says_all_where_there_are_errors(faulty_data, tmp_path):
    result = run(faulty_data, "--out", tmp_path / "a.json", "--clean", tmp_path / "clean", "--json")
    assert result.exit_code == 3, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error[E300]")
    assert "expected a folder without errors: found 4 (" in line
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["code"], printed["exit"], printed["errors"]) == ("E300", 3, 4)
    assert printed["findings"] == json.loads((tmp_path / "a.json").read_text())["findings"]
    for word in ("identical_train_test", "wrong_modality", "trainB/ct.png", "cleaned copy: "):
        assert word in result.stdout


def test_command_takes_the_patient_pattern(clean_data, tmp_path):
    pattern = r"data.patient_pattern=(p)\d"
    result = run(clean_data, "--out", tmp_path / "a.json", "--set", pattern)
    assert result.exit_code == 3
    assert "patient_train_test" in result.stdout


def test_help_shows_an_example():
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: ctmr audit DATA" in result.stdout


def test_faulty_folder_names_each_kind_of_error_once(tmp_path):
    findings = [
        {"kind": kind, "level": level, "files": ["x"], "why": "y"}
        for kind, level in (("a", "error"), ("a", "error"), ("b", "note"))
    ]
    content = {"errors": 2, "warnings": 0, "notes": 1, "scans": {}, "findings": findings}
    error = Faulty(tmp_path, tmp_path / "x.json", AuditReport.model_validate(content))
    assert "found 2 (a)" in str(error)
    assert error.as_json()["findings"] == findings
    assert page_of(tmp_path / "x.json") == tmp_path / "x.html"


def test_folder_of_one_modality_ends_by_its_findings(tmp_path):
    write_clean_data(tmp_path / "data")
    for folder in ("trainA", "testA"):
        shutil.rmtree(tmp_path / "data" / folder)
    report = audit(tmp_path / "data", tmp_path / "audit.json")
    assert report.errors == 0
    assert report.scans == {"trainB": 12, "testB": 4}
    (empty,) = [each for each in report.findings if each.kind == "empty"]
    assert (empty.level, empty.why) == ("warning", "no CT beside it to train on")
