"""The same steps by one process or by several: what a test compares. Run as a program it is one of several."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ctmr.config import Config, parse_config
from ctmr.cyclegan.ranks import ALONE, Ranks
from ctmr.cyclegan.state import TrainState, new_state
from ctmr.cyclegan.step import train_step, update_average
from ctmr.system.rng import torch_stream
from ctmr.training.distributed import Runtime

STEPS = 20
IMAGES = 4  # of a step
KNOWN = (
    "pairs_ct",
    "pairs_true_mr",
    "pairs_mr",
    "pairs_true_ct",
    "half_real_mr",
    "half_real_true_ct",
)


def images_of(step: int, kind: torch.dtype) -> dict[str, Tensor]:
    """x, y and what is known beside them: the images of a step, (B, 1, 32, 32) in [-1, 1]."""
    names = ("x", "y", *KNOWN)
    drawn = (
        2 * torch.rand((len(names), IMAGES, 1, 32, 32), generator=torch_stream("step", step)) - 1
    )
    return dict(zip(names, drawn.to(kind), strict=True))


def trained(
    config: Config, runtime: Runtime, ranks: Ranks, steps: int, kind: torch.dtype
) -> TrainState:
    """The state after so many steps."""
    state = new_state(config, torch.device("cpu"))
    state.model.to(kind)
    state.ema.to(kind)
    for step in range(steps):
        own = {name: ranks.own(image) for name, image in images_of(step, kind).items()}
        x, y = own.pop("x"), own.pop("y")
        train_step(state, x, y, config.loss, runtime.autocast, 0, known=own, ranks=ranks)
        update_average(state, config.train.ema)
    return state


def contents(state: TrainState) -> dict[str, Tensor]:
    """All that training changes, and the last gradients."""
    gradients = {
        f"gradient.{name}": weight.grad
        for name, weight in state.model.named_parameters()
        if weight.grad is not None
    }
    return {k: v.detach().contiguous().clone() for k, v in (state.tensors() | gradients).items()}


def outcomes(config: Config, runtime: Runtime, ranks: Ranks) -> dict[str, Tensor]:
    """Twenty steps in float64, and one in float32."""
    many = contents(trained(config, runtime, ranks, STEPS, torch.float64))
    one = contents(trained(config, runtime, ranks, 1, torch.float32))
    return {f"many.{k}": v for k, v in many.items()} | {f"one.{k}": v for k, v in one.items()}


def by_processes(config: Config, count: int, place: Path) -> list[Path]:
    """Let several processes do it; the file that each has written."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    shared |= {
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_RUN_ID": "test",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    settings = place / "config.json"
    settings.write_text(json.dumps(config.model_dump()))
    files = [place / f"{rank}.safetensors" for rank in range(count)]
    started = []
    for rank, file in enumerate(files):
        own = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        paths = [str(Path(__file__).parents[1]), *sys.path]
        environment = (
            os.environ | {k: str(v) for k, v in own.items()} | {"PYTHONPATH": ":".join(paths)}
        )
        command = [sys.executable, "-W", "ignore", __file__, str(settings), str(file)]
        started.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for process in started:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    return files


def main(settings: str, file: str) -> None:
    """One process of several."""
    torch.set_num_threads(1)
    config = parse_config(json.loads(Path(settings).read_text()), source=settings)
    runtime = Runtime("float32")
    with runtime.processes.ending():
        save_file(outcomes(config, runtime, runtime.processes), file)


def alone(config: Config) -> dict[str, Tensor]:
    """The same by this process."""
    return outcomes(config, Runtime("float32"), ALONE)


if __name__ == "__main__":
    main(*sys.argv[1:])
