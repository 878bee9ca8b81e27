"""Several processes take the step that one takes; what is asked of them is refused where it cannot be done."""

import signal

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.config import config_yaml, overlaid
from ctmr.errors import DistributedError, OutputError, ToldElsewhere, UsageError
from ctmr.system.parallel import cores
from ctmr.training import launch
from ctmr.training.checkpoint import checkpoints
from ctmr.training.processes import Processes, require_parts
from ctmr.training.run_folder import RunFolder
from ctmr.training.signals import StopSignals
from support import two_processes


@pytest.fixture(scope="module")
def step_config(tiny_config):
    """All losses, noise and histories that are full after two steps."""
    losses = ["identity=8", "structure=1", "cycle_noise=0.05", "half_real=1", "pairs=1"]
    settings = [f"loss.{each}" for each in losses]
    return overlaid(
        tiny_config, [*settings, "train.history=6", f"train.batch_size={two_processes.IMAGES}"]
    )


@pytest.fixture(scope="module")
def by_two(step_config, tmp_path_factory):
    """What each of two processes ends with."""
    place = tmp_path_factory.mktemp("two")
    return [load_file(file) for file in two_processes.by_processes(step_config, 2, place)]


@pytest.fixture(scope="module")
def by_one(step_config):
    return two_processes.alone(step_config)


def test_two_processes_end_bit_identical(by_two):
    first, second = by_two
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_weights_averages_and_histories_after_twenty_steps_in_float64_are_those_of_one_process(
    by_one, by_two
):
    names = [name for name in by_one if name.startswith("many.") and ".gradient." not in name]
    kinds = {name.split(".")[1] for name in names}
    assert kinds == {"model", "ema", "optimiser_g", "optimiser_d", "history_x", "history_y"}
    assert len([name for name in names if "history" in name]) == 12
    for name in names:
        torch.testing.assert_close(by_two[0][name], by_one[name], rtol=0, atol=1e-9, msg=name)


def test_gradients_of_a_step_in_float32_are_those_of_one_process(by_one, by_two):
    names = [name for name in by_one if name.startswith("one.gradient.")]
    whole, found = (torch.cat([each[n].flatten() for n in names]) for each in (by_one, by_two[0]))
    assert whole.norm() > 0
    assert (found - whole).norm() < 1e-5 * whole.norm()


# What cannot be done


@pytest.mark.parametrize(
    ("images", "processes", "nearest"), [(3, 2, "2 or 4"), (1, 2, "2 would"), (10, 4, "8 or 12")]
)
def test_batch_that_cannot_be_shared_is_refused_with_the_nearest_that_can(
    images, processes, nearest
):
    with pytest.raises(UsageError, match=nearest) as caught:
        require_parts(images, processes)
    assert caught.value.exit_code == 2
    pasted = int(caught.value.fix.removeprefix("--set train.batch_size="))
    require_parts(pasted, processes)


def outcome(*words, code):
    """What a command says, once its exit code is that."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--devices", 0), "at least 1: found 0"),
        (("--devices", 4096), f"4096 needs as many cores: this machine has {cores()}"),
        (("--devices", 2, "--set", "train.batch_size=3"), "2 or 4 would do"),
        (("--device", "cuda"), "--device cuda needs a GPU"),
    ],
)
def test_devices_that_are_not_there_are_refused(tiny_data, tmp_path, options, said):
    if cores() < 2:
        pytest.skip("needs two cores")
    assert said in outcome("train", tiny_data, "--out", tmp_path / "run", *options, code=2)
    assert not (tmp_path / "run").exists()


def test_devices_beside_torchrun_are_refused(tiny_data, tmp_path, monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    words = ("train", tiny_data, "--out", tmp_path / "run", "--devices", 2)
    assert "torchrun says how many processes there are" in outcome(*words, code=2)


@pytest.fixture
def alone():
    return Processes(None, torch.device("cpu"))


def test_one_process_alone_agrees_with_itself(alone):
    error = OutputError("full", fix="free space")
    assert (alone.part, alone.greatest(3, 0)) == ((0, 1), [3, 0])
    assert (alone.first(lambda: 5), alone.in_turn(lambda: 6)) == (5, 6)
    with pytest.raises(OutputError, match="full"):
        alone.end_if(error)
    with pytest.raises(OutputError, match="full"):
        StopSignals().agree(alone, error)


def test_processes_but_the_first_stop_silently(tmp_path):
    signals = StopSignals()
    signals.received, signals._rank = signal.SIGTERM, 1
    with pytest.raises(ToldElsewhere) as caught:
        signals.require_none("step 3 of 4", tmp_path)
    assert caught.value.exit_code == 143


def result(**codes):
    """What the elastic agent says of processes: rank0=-9, ..."""
    failures = {int(name[4:]): ProcessFailure(0, 1, code, "") for name, code in codes.items()}
    return RunResult(WorkerState.FAILED if codes else WorkerState.SUCCEEDED, {}, failures)


@pytest.mark.parametrize(
    ("codes", "sent", "expected"),
    [
        ({}, [], 0),
        ({"rank0": 4, "rank1": 4}, [], 4),
        ({"rank0": 143, "rank1": -15}, [], 143),
        ({"rank0": 9, "rank1": 9}, [], 9),
        ({"rank0": -15, "rank1": -15}, [signal.SIGTERM], 143),
    ],
)
def test_code_of_the_launcher_is_what_its_processes_said(codes, sent, expected):
    assert launch._code(result(**codes), 2, sent) == expected


def test_launcher_names_the_process_that_was_killed_and_the_signal():
    with pytest.raises(DistributedError, match=r"process 1 of 2 on .* killed by SIGKILL"):
        launch._code(result(rank0=9, rank1=-9), 2, [])


# One command that may be run again


def test_resume_or_start_starts_goes_on_and_refuses_what_is_damaged(
    tiny_config, tiny_data, tmp_path
):
    file, run = tmp_path / "config.yaml", tmp_path / "run"
    file.write_text(config_yaml(overlaid(tiny_config, ["train.evaluate_every=100000"])))
    words = ("train", tiny_data, "--out", run, "--config", file, "--resume-or-start")
    run.mkdir()
    assert not RunFolder(run).holds_run()
    assert "resumed_from None" in outcome(*words, "--stop-after", 3, code=0)
    assert "resumed_from 3" in outcome(*words, code=0)
    for path in checkpoints(run / "checkpoints"):
        path.write_bytes(b"damaged")
    assert "error[E500]" in outcome(*words, code=5)
