import json
import sys

import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from ctmr.cli.app import app
from support.heads import head, save_grey
from support.reference import Patches, Resnet, drawn, save


def ctmr(*words):
    return CliRunner().invoke(app, [*map(str, words), "--json"])


@pytest.fixture
def pair(tmp_path):
    return [save(drawn(Resnet(), n), tmp_path / f"G_{n}.pth") for n in (0, 1)]


def test_imported_model_translates_and_says_that_its_quality_is_unknown(tmp_path, pair):
    net_d = [save(drawn(Patches(), n), tmp_path / f"D_{n}.pth") for n in (0, 1)]
    model = tmp_path / "model"
    made = ctmr("import-weights", *pair, model, "--ct-is", "A", "--size", 48, "--net-d", *net_d)
    assert made.exit_code == 0, made.output
    printed = json.loads(made.stdout.splitlines()[-1])
    assert printed == {
        **{"channels": 1, "blocks": 2, "filters": 4, "discriminators": True, "measured": False},
        "out": str(model),
    }
    save_grey(tmp_path / "ct.png", head(1, "ct", 48, 48))
    done = ctmr(
        "translate", tmp_path / "ct.png", tmp_path / "mr.png", "--to", "mr", "--model", model
    )
    assert done.exit_code == 0, done.output
    assert "quality unknown" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["warned"] == []
    quality = json.loads((tmp_path / "mr.json").read_text())["quality"]
    assert (quality["level"], quality["input_distance"]) == ("unknown", None)
    assert len(quality["why"]) == 1
    with Pillow.open(tmp_path / "mr.png") as image:
        assert (image.size, image.mode) == ((48, 48), "L")


def test_model_imported_with_data_judges(tmp_path, pair, tiny_data):
    model = tmp_path / "model"
    made = ctmr("import-weights", *pair, model, "--ct-is", "A", "--size", 36, "--data", tiny_data)
    assert made.exit_code == 0, made.output
    source = sorted((tiny_data / "testA").iterdir())[0]
    done = ctmr("translate", source, tmp_path / "mr.png", "--to", "mr", "--model", model)
    assert done.exit_code == 0, done.output
    assert "quality unknown" not in done.stdout


def test_bad_weights_end_with_5_and_a_folder_that_is_not_empty_with_4(tmp_path, pair):
    (tmp_path / "bad.pth").write_bytes(pair[0].read_bytes()[:5000])
    bad = ctmr("import-weights", tmp_path / "bad.pth", pair[1], tmp_path / "model", "--ct-is", "A")
    assert bad.exit_code == 5
    assert not (tmp_path / "model").exists()
    full = ctmr("import-weights", *pair, tmp_path, "--ct-is", "A")
    assert full.exit_code == 4


def test_without_pytorch_it_says_what_to_install(tmp_path, pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = ctmr("import-weights", *pair, tmp_path / "model", "--ct-is", "A")
    assert done.exit_code == 2
    fix = json.loads(done.stdout.splitlines()[-1])["fix"]
    assert fix.startswith("pip install 'ctmr[train]'")
