"""The whole program once on this machine's GPU, or on its CPU: does it run, and how fast. At most 10 minutes.

    python benchmarks/gpu.py [--preset default] [--minutes 3] [--subjects 6] [--size 256] [--json]

Synthetic heads, a training of about `--minutes`, translations of unseen heads and their evaluation. Prints device, versions,
seconds of each part and images a second; what is written is thrown away.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

import ctmr
from ctmr.config import load_config, with_steps
from ctmr.demo import PATIENTS, steps_in
from ctmr.evaluation.evaluate import evaluate
from ctmr.synthetic.data_folder import write_heads
from ctmr.training.distributed import Runtime
from ctmr.training.train import train
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import load_model

Result = TypeVar("Result")


def main() -> None:
    """Run each part once and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, about")
    parser.add_argument("--subjects", type=int, default=6, help="for training, of each modality")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of a slice")
    parser.add_argument("--set", nargs="*", default=(), metavar="KEY=VALUE", help="settings")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options, Path(scratch))
    print(" | ".join(f"{key} {value}" for key, value in found["machine"].items()), end="\n\n")
    print("| part | seconds | images/s |")
    print("|---|---|---|")
    for part, measured in found["parts"].items():
        rate = f"{measured['images_per_second']:.1f}" if "images_per_second" in measured else ""
        print(f"| {part} | {measured['seconds']:.1f} | {rate} |")
    print(f"\n{found['steps']} steps, MAE in the head {found['mae']}")
    if options.json:
        print(json.dumps(found))


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Seconds and images a second of each part, and the machine they are of."""
    data, run = scratch / "data", scratch / "run"
    config = load_config(
        options.preset,
        overrides=(
            f"data.size={options.size}",
            f"data.patient_pattern={PATIENTS}",
            "train.log_every=5",
            *options.set,
        ),
    )
    parts: dict[str, dict[str, float]] = {}

    def timed(part: str, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        result = work()
        parts[part] = {"seconds": time.perf_counter() - started}
        return result

    timed("heads", lambda: write_heads(data, subjects=options.subjects, seed=0, size=options.size))
    steps = timed("timing of a step", lambda: steps_in(options.minutes, config, data))
    summary = timed("train", lambda: train(with_steps(config, steps, None), data, run))
    if summary.seconds_per_step_median:
        rate = 2 * config.train.batch_size / summary.seconds_per_step_median
        parts["train"]["images_per_second"] = rate
    translator = timed("load the model", lambda: load_model(run, engine="torch"))
    source = data / "test" / "ct"
    done = timed(
        "translate",
        lambda: translate_files(translator, source, scratch / "mr", "mr", quality="none"),
    )
    parts["translate"]["images_per_second"] = done.written / done.seconds
    (data / "subjects.json").unlink()  # without it no lesions, whose heads are made on the CPU
    evaluation = timed("evaluate", lambda: evaluate(translator, data / "test"))
    runtime = Runtime(config.train.precision)
    return {
        "machine": {
            "device": runtime.device_name(),
            "precision": runtime.precision,
            "ctmr": ctmr.__version__,
            "Python": platform.python_version(),
            "PyTorch": torch.__version__,
            "CUDA": torch.version.cuda or "none",
        },
        "parts": parts,
        "steps": summary.steps,
        "mae": {
            direction: round(figures["mae"]["mean"], 2)
            for direction, figures in evaluation.summary["directions"].items()
        },
    }


if __name__ == "__main__":
    main()
