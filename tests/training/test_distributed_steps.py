"""Several processes take the step that one takes; what is asked of them is refused where it cannot be done."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from ctmr.config import overlaid
from ctmr.errors import UsageError
from ctmr.training.processes import require_parts
from support import two_processes

CLI = "from ctmr.cli import main; main()"


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


def called(*arguments, env=None, timeout=120):
    return subprocess.run(
        [sys.executable, "-c", CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
