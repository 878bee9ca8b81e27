"""Settings side by side on synthetic heads: the readings of the paper's "ResNet34", and weights of the losses.

    python benchmarks/compare.py readings --work FOLDER --steps 500 --seconds
    python benchmarks/compare.py weights --work FOLDER --steps 600

Makes synthetic heads once, trains each line of the table and prints its errors against the truth in the head mask.
With --seconds, every line is trained again for as many steps as fit into the seconds of the slowest. Seconds are the
steps times the median of a few steps timed at the start, one line after another: only then need the machine be idle.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctmr.config import Config, load_config, with_steps
from ctmr.evaluation import evaluate
from ctmr.synth import write_heads
from ctmr.training import train

HALF = (  # half of the paper's filters, one channel, fast multiplications: for two cores
    "data.channels=1",
    "network.filters=32",
    "network.discriminator_filters=32",
    "train.precision=auto",
)
READINGS = {
    "resnet34": (*HALF, "network.generator=resnet34"),
    "resnet50": (*HALF, "network.generator=resnet50"),
    "resnet, 16 blocks": (*HALF, "network.generator=resnet", "network.blocks=16"),
}
ADVISED = (  # what `small` does beside its generator
    "data.ct_window=piecewise",
    "network.initialisation=uniform",
    "loss.cycle=2",
    "loss.identity=0",
    "loss.structure=4",
    "loss.cycle_noise=0.05",
    "train.learning_rate=0.0005",
    "train.ema=0.9995",
)
TABLES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "readings": ("paper", READINGS),
    "readings-advised": ("paper", {name: (*line, *ADVISED) for name, line in READINGS.items()}),
    "weights": (
        "small",
        {
            "small": (),
            "paper's 4 and 8, no structure": (
                "loss.cycle=4",
                "loss.identity=8",
                "loss.structure=0",
                "loss.cycle_noise=0",
            ),
            "Zhu et al.'s 5 and 2.5, no structure": (
                "loss.cycle=5",
                "loss.identity=2.5",
                "loss.structure=0",
                "loss.cycle_noise=0",
            ),
            "2 and 0, no structure": ("loss.structure=0",),
            "with identity 0.5": ("loss.identity=0.5",),
            "without noise": ("loss.cycle_noise=0",),
            "structure 2": ("loss.structure=2",),
            "window wide": ("data.ct_window=wide",),
            "weights from N(0, 0.02^2)": ("network.initialisation=normal",),
            "resnet34 with skips, 32 filters": (
                "network.generator=resnet34",
                "network.skips=true",
                "network.filters=32",
            ),
        },
    ),
}


@dataclass(frozen=True)
class Row:
    """A trained line of the table: its cost and its mean absolute errors."""

    name: str
    budget: str
    steps: int
    seconds: float
    mr_to_ct_hu: float
    ct_to_mr_grey: float


def main() -> None:
    """Train every line of a table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--seconds", action="store_true", help="equal seconds too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = options.work / "heads"
    if not data.exists():
        write_heads(data, subjects=options.subjects, size=options.size)
    names = TABLES[options.table][1]
    per_step = {name: seconds_per_step(options, data, name) for name in names}
    lines = [(name, options.steps, f"{options.steps} steps") for name in names]
    if options.seconds:
        budget = options.steps * max(per_step.values())
        for name in names:
            steps = round(budget / per_step[name])
            if steps > 1.1 * options.steps:
                lines.append((name, steps, f"{budget:.0f} s"))
    rows = []
    for name, steps, budget_text in lines:
        errors = train_line(options, data, name, steps)
        rows.append(Row(name, budget_text, steps, steps * per_step[name], *errors))
        print(json.dumps(vars(rows[-1])), file=sys.stderr, flush=True)
    print_table(rows)
    if options.json:
        print(json.dumps([vars(row) for row in rows]))


def line_config(options: argparse.Namespace, name: str, steps: int) -> Config:
    """The settings of one line of the table."""
    preset, lines = TABLES[options.table]
    overrides = (
        f"data.size={options.size}",
        "data.patient_pattern=(subject-[0-9]+)",
        f"train.sample_every={steps}",
        f"train.checkpoint_every={steps}",
        *lines[name],
    )
    return with_steps(load_config(preset, overrides=overrides), steps, None)


def seconds_per_step(options: argparse.Namespace, data: Path, name: str) -> float:
    """Median of a few steps of one line, without the first."""
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        train(
            line_config(options, name, options.steps),
            data,
            Path(scratch) / "run",
            stop_after=min(10, options.steps),
            observer=lambda row, _: seconds.append(row["seconds_per_step"]),
        )
    return statistics.median(seconds[len(seconds) // 4 :])


def train_line(
    options: argparse.Namespace, data: Path, name: str, steps: int
) -> tuple[float, float]:
    """Train one line of the table for that many steps; its errors MR to CT (HU) and CT to MR (grey levels)."""
    number = list(TABLES[options.table][1]).index(name)
    run = options.work / f"{options.table}-{number}-{steps}"
    if not (run / "model").exists():
        train(line_config(options, name, steps), data, run)
    found = evaluate(run, data / "test", out=run / "evaluation").summary["directions"]
    return found["mr-to-ct"]["mae"]["mean"], found["ct-to-mr"]["mae"]["mean"]


def print_table(rows: Sequence[Row]) -> None:
    """The rows as a Markdown table."""
    print("| | budget | steps | seconds | MR to CT, MAE HU | CT to MR, MAE grey |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.name} | {row.budget} | {row.steps} | {row.seconds:.0f}"
            f" | {row.mr_to_ct_hu:.1f} | {row.ct_to_mr_grey:.1f} |"
        )


if __name__ == "__main__":
    main()
