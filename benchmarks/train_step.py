"""Seconds of a training step, settings side by side, and the reference implementation beside them.

    python benchmarks/train_step.py [--lines small,default] [--rounds 5] [--steps 4] [--json]
    python benchmarks/train_step.py --reference PATH --reference-python PYTHON

PATH is a clone of pytorch-CycleGAN-and-pix2pix, PYTHON the interpreter of an environment that can run it. Every line is
measured in a process of its own, in turn, on random images that are in memory: the loader has a benchmark of its own.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from ctmr.config import Config, load_config
from ctmr.cyclegan.state import new_state
from ctmr.cyclegan.step import train_step, update_average
from ctmr.training.distributed import Runtime
from parity import reference_options
from roofline import (
    GENERATORS,
    NATIVE,
    convolution_peak,
    convolution_seconds,
    flops,
    processor,
    timed,
)
from turns import Command, as_json, in_turn, print_table

REFERENCE = "reference, 9 blocks, float32"


def main() -> None:
    """Measure the lines in turn and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", default="9-blocks,default,small", help=", ".join(GENERATORS))
    parser.add_argument("--reference", type=Path, help="clone of the reference")
    parser.add_argument("--reference-python", type=Path)
    parser.add_argument("--size", type=int, help="side of the images, instead of each preset's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=4, help="timed in a round, after one that is not"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("LINE", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(
            json.dumps(
                measure(config_of(options.one[0], options.one[1], options.size), options.steps)
            )
        )
        return
    if (options.reference is None) != (options.reference_python is None):
        parser.error("--reference and --reference-python belong together")
    programs: dict[str, Command] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if options.reference is not None:
            programs[REFERENCE] = reference_command(options, Path(scratch))
        for line in options.lines.split(","):
            for precision in NATIVE:
                size = ("--size", str(options.size)) if options.size else ()
                steps = ("--steps", str(options.steps))
                command = (sys.executable, __file__, "--one", line, precision, *steps, *size)
                programs[f"{line}, {precision}"] = command
        found = in_turn(programs, options.rounds)
    same = "9-blocks, float32"
    if REFERENCE in found and same in found:  # the same networks: the same arithmetic
        found[REFERENCE].printed["gflop"] = found[same].printed["gflop"]
    peaks: dict[str, float] = {name: convolution_peak(name) for name in NATIVE}
    print(processor())
    print(
        f"{options.rounds} rounds of {options.steps} steps, {torch.get_num_threads()} threads;",
        end=" ",
    )
    print(
        ", ".join(f"peak {peak:.0f} GFLOP/s in {name}" for name, peak in peaks.items()), end="\n\n"
    )
    print_table("step", found, next(iter(found)), peaks=peaks)
    if options.json:
        print(as_json(found, peaks))


def config_of(line: str, precision: str, size: int | None) -> Config:
    """The settings of a line."""
    preset, file, overrides = GENERATORS[line]
    sized = (f"data.size={size}",) if size else ()
    return load_config(preset, file, (*overrides, f"train.precision={precision}", *sized))


def measure(config: Config, steps: int) -> dict[str, float | str]:
    """Median seconds of some steps after one that is not counted, and the arithmetic of one."""
    runtime = Runtime(config.train.precision)
    state = new_state(config, runtime.device)
    shape = (2, config.train.batch_size, config.data.channels, config.data.size, config.data.size)
    first, second = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1
    x, y = runtime.to_device(first), runtime.to_device(second)
    known = {"half_real_mr": y, "half_real_true_ct": x} if config.loss.half_real > 0 else {}
    if config.loss.truth > 0:
        known |= {"truth_ct": x, "truth_true_mr": y, "truth_mr": y, "truth_true_ct": x}

    def step() -> None:
        losses = train_step(state, x, y, config.loss, runtime.autocast, config.seed, known=known)
        update_average(state, config.train.ema)
        float(losses["loss_g"])  # waits for a GPU

    gflop = flops(step) / 1e9
    seconds = statistics.median(timed(step) for _ in range(steps))
    alone = convolution_seconds(step)
    return {
        "seconds": seconds,
        "convolutions": alone,
        "gflop": gflop,
        "precision": runtime.precision,
    }


def reference_command(options: argparse.Namespace, scratch: Path) -> Command:
    """The reference with its own default weights, one channel, and our 9 blocks' other settings."""
    config = config_of("9-blocks", "float32", options.size)
    arguments = [*reference_options(config, scratch), "--lambda_A=10", "--lambda_B=10"]
    driver = Path(__file__).with_name("reference_time.py")
    size = str(config.data.size)
    return (
        options.reference_python,
        driver,
        options.reference.resolve(),
        str(options.steps),
        size,
        *arguments,
    )


if __name__ == "__main__":
    main()
