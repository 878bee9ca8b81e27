import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ctmr import load_model, synthesise_head
from ctmr.cli.app import app
from ctmr.config import load_config
from ctmr.cyclegan.networks import UNet, initialise
from ctmr.cyclegan.state import new_state
from ctmr.errors import CheckpointError
from ctmr.imaging.image import Image
from ctmr.models.bundle import bundled_models, bundled_names
from ctmr.models.folder import load_weights, read_model, write_model
from ctmr.models.lookup import GENERATOR_FILES, model_folder, results_folder
from ctmr.system.rng import torch_stream
from support.identity import bundled_about


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


# Which model


def test_model_without_a_path_and_by_name_is_the_bundled_one(bundled):
    sha256 = json.loads((bundled / "model.json").read_text())["sha256"]
    for translator in (load_model(), load_model("head"), load_model(bundled)):
        assert translator.model.card.sha256 == sha256


def test_folder_of_the_user_comes_before_a_bundled_model_of_its_name(
    bundled, tiny_run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert model_folder(Path("head")) == bundled
    shutil.copytree(tiny_run / "model", "head")
    assert model_folder(Path("head")) == Path("head")


@pytest.mark.usefixtures("bundled")
def test_message_names_the_models_that_there_are(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "nothing")
    assert caught.value.fix.endswith("with --out, or head, which comes with ctmr")


def test_package_without_models_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("ctmr.models.bundle.BUNDLED", tmp_path)
    assert bundled_names() == []
    assert run("models") == "no model comes with this installation\n"
    with pytest.raises(CheckpointError, match="found none"):
        load_model()


def test_results_of_a_bundled_model_go_into_the_working_folder(bundled, tiny_run):
    assert results_folder(Path("head")) == results_folder(bundled) == Path("evaluation")
    assert results_folder(tiny_run) == tiny_run / "evaluation"


# Its folder


def test_weights_are_stored_in_half_the_bytes_and_read_as_float32(tmp_path):
    networks = {}
    for name in GENERATOR_FILES.values():
        networks[name] = UNet(1, 4)
        initialise(networks[name], "uniform", torch_stream(1, name))
    for half in (True, False):
        write_model(tmp_path / str(half), networks, bundled_about(), half=half)
    model = read_model(tmp_path / "True")
    assert model.discriminators == {}
    for direction, name in GENERATOR_FILES.items():
        sizes = [(tmp_path / str(half) / name).stat().st_size for half in (True, False)]
        assert sizes[0] < 0.6 * sizes[1]
        stored = model.generators[direction].state_dict()
        for key, value in networks[name].state_dict().items():
            assert stored[key].dtype == torch.float32
            assert torch.equal(stored[key], value.half().float())


def test_start_from_a_model_without_discriminators_leaves_them_fresh(bundled, caplog):
    config = load_config(
        "default",
        overrides=["network.filters=4", "data.size=32", "train.ema=0", "loss.adversary=1"],
    )
    state = new_state(config, torch.device("cpu"))
    fresh = {key: value.clone() for key, value in state.model.D_X.state_dict().items()}
    load_weights(Path("head"), state, config)
    given = read_model(bundled).generators["ct-to-mr"].state_dict()
    assert all(torch.equal(value, given[key]) for key, value in state.model.G.state_dict().items())
    assert all(
        torch.equal(value, fresh[key]) for key, value in state.model.D_X.state_dict().items()
    )
    assert "head: the model has no discriminators: they start fresh" in caplog.text


# What is said of it


@pytest.mark.usefixtures("bundled")
def test_models_are_listed_with_size_hash_licence_and_limits():
    (model,) = bundled_models()
    shown = run("models")
    for part in (model.name, "ct-to-mr, mr-to-ct", model.sha256, model.licence, *model.limits):
        assert part in shown
    listed = json.loads(run("models", "--json").splitlines()[-1])
    assert listed == {"models": [json.loads(json.dumps(model.as_json()))]}
    assert listed["models"][0]["size_mb"] == 0.1


@pytest.mark.usefixtures("bundled")
def test_page_about_a_model_is_printed():
    assert run("models", "head") == "# head\n\nA model for tests.\n"
    done = CliRunner().invoke(app, ["models", "heart"])
    assert done.exit_code == CheckpointError.exit_code
    assert "expected a model that comes with ctmr (head): found 'heart'" in done.stderr


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"provenance": {}}', '{"provenance": 1}'])
def test_damaged_bundled_model_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr("ctmr.models.bundle.BUNDLED", tmp_path)
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"not the model\.json of a bundled model"):
        bundled_models()


def test_list_of_models_does_not_load_torch(bundled_place):
    script = f"""
import sys
from pathlib import Path
from ctmr.models import bundle
bundle.BUNDLED = Path({str(bundled_place)!r})
from ctmr.cli import main
sys.argv = ["ctmr", "models"]
try:
    main()
except SystemExit as ended:
    assert not ended.code
assert not {{"torch", "matplotlib", "scipy", "skimage"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "head" in done.stdout


# At work


@pytest.mark.usefixtures("bundled")
def test_volume_is_translated_without_naming_a_model(tmp_path):
    from ctmr import write_scan
    from ctmr.imaging.volume import Volume

    head = synthesise_head(5, shape=(36, 42, 12), spacing_mm=(5.0, 5.0, 12.0))
    mr = Volume(np.asarray(head.mr, np.float32), head.affine, "mr")
    write_scan(tmp_path / "scan.nii.gz", mr)
    out = tmp_path / "out.nii.gz"
    run("translate", str(tmp_path / "scan.nii.gz"), str(out), "--to", "ct", "--anyway")
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert sidecar["unit"] == "HU"
    assert set(sidecar["outputs"]) == {"out.nii.gz", "out.preview.png"}


@pytest.mark.usefixtures("bundled")
def test_picture_of_eight_bits_becomes_hu_and_the_other_way_is_refused_without_a_window(tmp_path):
    from ctmr.io.images import read_image, write_image
    from support.heads import head

    picture = head(3, "mr", 96, 96).astype(np.float32)
    write_image(tmp_path / "a.png", Image(picture, "grey", 8))
    run("translate", str(tmp_path / "a.png"), str(tmp_path / "ct" / "a.png"), "--to", "ct")
    result = read_image(tmp_path / "ct" / "a.png")
    assert (result.unit, result.depth, result.array.shape) == ("HU", 16, (96, 96))
    sidecar = json.loads((tmp_path / "ct" / "a.json").read_text())
    assert 190 / 96 <= sidecar["guessed_mm"] <= 310 / 96

    words = ("translate", str(tmp_path / "a.png"), str(tmp_path / "mr.png"), "--to", "mr")
    done = CliRunner().invoke(app, [*words, "--anyway"])
    assert done.exit_code == 3
    assert "give --ct-values LOW:HIGH, its window in HU" in done.stderr
    other = tmp_path / "other" / "mr.png"
    run(*words[:2], str(other), *words[3:], "--anyway", "--ct-values", "-100:200")
    assert read_image(other).unit == "grey"


@pytest.mark.usefixtures("bundled")
def test_evaluation_of_a_bundled_model_writes_into_the_working_folder(
    bundled_place, tiny_pairs, tmp_path, monkeypatch
):
    before = {path: path.read_bytes() for path in bundled_place.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_pairs, "pairs")
    hu = {"unit": "HU", "slope": 8, "intercept": -1024}
    Path("pairs/ct/ctmr.json").write_text(json.dumps(hu))
    run("evaluate", "head", "pairs", "--anyway")
    assert Path("evaluation/metrics.json").is_file()
    after = {path: path.read_bytes() for path in bundled_place.rglob("*") if path.is_file()}
    assert after == before
