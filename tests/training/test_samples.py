import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow

from ctmr.cyclegan.state import new_state
from ctmr.data.prepare import prepare
from ctmr.errors import UsageError
from ctmr.training.run_folder import RunFolder
from ctmr.training.samples import Samples

LOG_ROW = {"step": 3, "epoch": 0, "lr": 0.1, "loss_g": 2.5}


def draw(data: Path, config, run: Path, *, step: int = 0) -> bytes:
    """The grid that a fresh state gives at that step."""
    state = new_state(config, torch.device("cpu"))
    state.step = step
    Samples(prepare(data, config.data), RunFolder(run), tensorboard=False).draw(state)
    return (run / "samples" / f"step_{step:06d}.png").read_bytes()


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """A data folder that may be changed."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def test_grid_of_a_step_is_a_png_with_four_rows(tiny_data, tiny_config, tmp_path):
    content = draw(tiny_data, tiny_config, tmp_path / "run", step=5000)
    assert content.startswith(b"\x89PNG")
    with Pillow.open(tmp_path / "run" / "samples" / "step_005000.png") as image:
        assert image.size[1] > 4 * 32


def test_equal_states_give_equal_grids(tiny_data, tiny_config, tmp_path):
    first = draw(tiny_data, tiny_config, tmp_path / "first")
    assert first == draw(tiny_data, tiny_config, tmp_path / "second")


def test_grid_shows_test_images_only(data, tiny_config, tmp_path):
    before = draw(data, tiny_config, tmp_path / "before")
    image = data / "trainA" / "ct_00.png"
    shutil.copyfile(data / "trainA" / "ct_01.png", image)
    assert draw(data, tiny_config, tmp_path / "train") == before
    shutil.copyfile(data / "trainA" / "ct_01.png", data / "testA" / "head_00.png")
    assert draw(data, tiny_config, tmp_path / "test") != before


def test_without_test_images_training_images_are_shown_with_a_warning(
    data, tiny_config, tmp_path, caplog
):
    shutil.rmtree(data / "testB")
    with caplog.at_level(logging.WARNING):
        assert draw(data, tiny_config, tmp_path / "run")
    assert "the sample grids show training images" in caplog.text


def test_modalities_may_differ_in_number(data, tiny_config, tmp_path):
    (data / "testB" / "head_00.png").unlink()
    (data / "testB" / "head_01.png").unlink()
    assert draw(data, tiny_config, tmp_path / "run")


def test_tensorboard_gets_events(tiny_data, tiny_config, tmp_path):
    pytest.importorskip("tensorboard")
    run = RunFolder(tmp_path / "run")
    samples = Samples(prepare(tiny_data, tiny_config.data), run, tensorboard=True)
    samples.log(LOG_ROW)
    samples.draw(new_state(tiny_config, torch.device("cpu")))
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"loss_g" in events.read_bytes()


def test_without_tensorboard_nothing_is_logged(tiny_data, tiny_config, tmp_path):
    run = RunFolder(tmp_path / "run")
    Samples(prepare(tiny_data, tiny_config.data), run, tensorboard=False).log(LOG_ROW)
    assert not (tmp_path / "run").exists()


def test_missing_tensorboard_is_named(tiny_data, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    store = prepare(tiny_data, tiny_config.data)
    with pytest.raises(UsageError, match="needs the tensorboard package") as caught:
        Samples(store, RunFolder(tmp_path), tensorboard=True)
    assert "pip install 'ctmr[tensorboard]'" in caught.value.fix
