import json
import shutil

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.config import config_yaml, overlaid
from ctmr.data.prepare import prepare
from ctmr.data.store import open_store
from ctmr.errors import DataError, OutputError
from ctmr.models.folder import read_model
from ctmr.training.train import train

KNOWN = ["loss.truth=1", "loss.half_real=1", "data.size=48", "train.steps=1"]


@pytest.fixture(scope="module")
def config(tiny_config):
    return overlaid(tiny_config, KNOWN)


@pytest.fixture(scope="module")
def data(tiny_data, tiny_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copies") / "data"
    shutil.copytree(tiny_data, folder)
    shutil.copytree(tiny_pairs, folder / "val")
    return folder


@pytest.fixture
def store(config, data, tiny_pairs, label_maps, tmp_path):
    place = tmp_path / "store"
    return prepare(data, config.data, place, pairs=tiny_pairs, anatomies=label_maps).path


@pytest.mark.usefixtures("quick_records")
def test_store_trains_as_the_folders_do(config, data, store, tiny_pairs, label_maps, tmp_path):
    train(config, data, tmp_path / "folders", pairs=tiny_pairs, anatomies=label_maps)
    train(config, store, tmp_path / "store-run")
    one, two = (read_model(tmp_path / name).card for name in ("folders", "store-run"))
    assert one.files == two.files
    lines = [
        (tmp_path / name / "evaluations.jsonl").read_text().splitlines()[-1]
        for name in ("folders", "store-run")
    ]
    assert json.loads(lines[0]) == json.loads(lines[1])
    assert json.loads(lines[0])["by"] == "ssim"  # by val/, which the store has too


def test_same_store_is_not_made_again_and_another_is_refused(
    config, data, store, tiny_pairs, label_maps
):
    before = (store / "store.json").stat().st_mtime_ns
    prepare(data, config.data, store, pairs=tiny_pairs, anatomies=label_maps)
    assert (store / "store.json").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="other data"):
        prepare(data, config.data, store, pairs=tiny_pairs)


@pytest.mark.parametrize("name", ["val", "pairs", "anatomies"])
def test_changed_lost_or_new_copy_is_found(store, name):
    file = next(path for path in sorted((store / name).rglob("*")) if path.is_file())
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="another content"):
        open_store(store)
    file.unlink()
    with pytest.raises(DataError, match="lacks this file"):
        open_store(store)
    file.write_bytes(content)
    (store / name / "new.txt").write_text("new")
    with pytest.raises(DataError, match="does not know this file"):
        open_store(store)
    (store / name / "new.txt").unlink()
    assert open_store(store).copies


@pytest.mark.usefixtures("quick_records")
def test_commands_take_pairs_alone(tiny_config, tiny_pairs, tmp_path):
    (tmp_path / "mine.yaml").write_text(config_yaml(overlaid(tiny_config, ["train.steps=2"])))
    arguments = ["train", "--pairs", str(tiny_pairs), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--config", str(tmp_path / "mine.yaml")])
    assert result.exit_code == 0, result.output
    row = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert row["pairs"] > 0
    nothing = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "other")])
    assert nothing.exit_code == 2
    assert "DATA is missing" in nothing.output


def test_folder_that_is_not_there_is_refused(config, data, tmp_path):
    with pytest.raises(DataError, match="expected a folder"):
        prepare(data, config.data, tmp_path / "store", pairs=tmp_path / "nowhere")
    assert not (tmp_path / "store").exists()
