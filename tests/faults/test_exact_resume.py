"""A run cut after every step, with other numbers of workers each time, ends like the one never cut: every preset, shrunk."""

import hashlib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ctmr.config import PRESETS, overlaid
from ctmr.synthetic.data_folder import write_heads
from ctmr.system.files import read_log
from ctmr.training.checkpoint import checkpoints
from ctmr.training.train import train

SMALL = (
    *("data.size=64", "network.filters=8", "network.blocks=1", "network.discriminator_filters=8"),
    "train.start=random",
    *("train.history=3", "train.checkpoint_every=100", "train.log_every=1"),
    *("train.sample_every=3", "train.evaluate_every=5"),
)
# Ten CT images: an epoch is ten steps, or five of two images. The rate falls from the middle on.
CASES = {
    "paper": ("paper", ("train.batch_size=2", "train.steps=7")),
    "default": (
        "default",
        (
            *("network.generator=resnet", "loss.adversary=1", "loss.cycle=2", "loss.structure=4"),
            *("train.batch_size=2", "train.steps=7", "train.precision=bfloat16"),
        ),
    ),
    "small": ("small", ("train.batch_size=1", "train.steps=7", "train.precision=float32")),
    "volumes": ("small", ("train.batch_size=2", "train.steps=3", "data.pixel_mm=4")),
}


pytestmark = pytest.mark.usefixtures("quick_records")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Synthetic heads as NIfTI volumes."""
    folder = tmp_path_factory.mktemp("heads") / "data"
    write_heads(folder, subjects=2, size=64, image_format="nifti")
    return folder


def contents(run: Path) -> dict[str, str]:
    """A hash of every tensor of the newest checkpoint."""
    tensors = load_file(checkpoints(run / "checkpoints")[0])
    return {
        name: hashlib.sha256(each.contiguous().view(-1).float().numpy().tobytes()).hexdigest()
        for name, each in tensors.items()
    }


def losses(run):
    """The log without its durations."""
    rows = read_log(run / "log.jsonl")
    return [
        {k: v for k, v in row.items() if k not in ("seconds_per_step", "data_wait")} for row in rows
    ]


@pytest.mark.parametrize("case", CASES)
def test_run_cut_after_every_step_equals_the_one_never_cut(case, tiny_data, tmp_path, request):
    preset, settings = CASES[case]
    config = overlaid(PRESETS[preset], [*SMALL, *settings])
    data = request.getfixturevalue("heads") if case == "volumes" else tiny_data
    train(config, data, tmp_path / "whole")
    steps = config.train.steps
    for step in range(1, steps + 1):
        cut = overlaid(config, [f"train.workers={step % 3}"])
        train(cut, data, tmp_path / "cut", resume=step > 1, stop_after=step)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    evaluations = [(tmp_path / run / "evaluations.jsonl").read_text() for run in ("cut", "whole")]
    assert evaluations[0] == evaluations[1]
    kinds = {name.split(".")[0] for name in contents(tmp_path / "cut")}
    adversary = {"optimiser_d", "history_x", "history_y"} if config.loss.adversary > 0 else set()
    assert kinds >= {"model", "optimiser_g", *adversary}


def test_changed_order_of_cuts_and_workers_does_not_matter(tiny_data, tmp_path):
    config = overlaid(PRESETS["small"], [*SMALL, *CASES["small"][1]])
    train(config, tiny_data, tmp_path / "whole")
    for start, stop, workers in ((0, 3, 2), (3, 4, 1), (4, 7, 2)):
        cut = overlaid(config, [f"train.workers={workers}", "train.evaluate_every=1000"])
        train(cut, tiny_data, tmp_path / "cut", resume=start > 0, stop_after=stop)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
