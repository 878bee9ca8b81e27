import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.data.kaggle import DATASET, fetch_kaggle
from ctmr.errors import DataError, OutputError, UsageError

NAMES = ("trainA", "trainB", "testA", "testB")


def download(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[str]:
    """Put a kagglehub in place that gives this folder, or raises this error; what it is asked for."""
    asked = []

    def dataset_download(name: str) -> str:
        asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setitem(
        sys.modules, "kagglehub", SimpleNamespace(dataset_download=dataset_download)
    )
    return asked


def delivered(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_text(name)
    return folder


def test_data_set_is_copied_from_wherever_it_lies(tmp_path, monkeypatch):
    delivered(tmp_path / "cache" / "versions" / "1" / "images", *NAMES, "extra")
    asked = download(monkeypatch, tmp_path / "cache")
    out = tmp_path / "new" / "out"
    assert fetch_kaggle(out) == out
    assert asked == [DATASET] == ["darren2020/ct-to-mri-cgan"]
    assert {path.name for path in out.iterdir()} == set(NAMES)
    assert all((out / name / "a.png").read_text() == name for name in NAMES)


def test_without_kagglehub_the_manual_steps_are_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    result = CliRunner().invoke(app, ["fetch", "kaggle", str(tmp_path / "out")])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error[E200]: fetch kaggle needs the kagglehub package")
    for step in (
        "pip install 'ctmr[kaggle]'",
        "download it by hand from kaggle.com/datasets/darren2020/ct-to-mri-cgan",
        "trainA, trainB, testA, testB lie in one folder",
    ):
        assert step in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="is not installed"):
        fetch_kaggle(tmp_path / "out")


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), ValueError("401")])
def test_kaggle_out_of_reach_says_the_manual_steps(tmp_path, monkeypatch, error):
    download(monkeypatch, error)
    with pytest.raises(
        DataError, match=rf"cannot download .* \({type(error).__name__}\)"
    ) as caught:
        fetch_kaggle(tmp_path / "out")
    assert "by hand from kaggle.com/datasets" in caught.value.fix
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [(), ("other",), NAMES[:3]])
def test_something_else_than_the_data_set_is_refused(tmp_path, monkeypatch, names):
    download(monkeypatch, delivered(tmp_path / "cache", *names))
    with pytest.raises(DataError, match="expected trainA, trainB, testA, testB in one folder"):
        fetch_kaggle(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["full", "full/file"])
def test_place_that_is_taken_is_refused_before_the_download(tmp_path, monkeypatch, place):
    asked = download(monkeypatch, tmp_path)
    delivered(tmp_path, "full")
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(OutputError, match="expected a new or empty folder"):
        fetch_kaggle(tmp_path / place)
    assert asked == []


def test_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    cache = delivered(tmp_path / "cache", *NAMES)
    (cache / "testB" / "b.png").symlink_to("nowhere")  # cannot be copied
    download(monkeypatch, cache)
    with pytest.raises(OutputError, match="cannot copy the data set"):
        fetch_kaggle(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_command_ends_with_the_folder(tmp_path, monkeypatch):
    download(monkeypatch, delivered(tmp_path / "cache", *NAMES))
    result = CliRunner().invoke(app, ["fetch", "kaggle", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    assert str(tmp_path / "out") in result.stdout.splitlines()[-1]
