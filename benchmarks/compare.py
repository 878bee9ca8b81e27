"""Settings side by side on synthetic heads: the readings of the paper's "ResNet34", and weights of the losses.

    python benchmarks/compare.py readings --work FOLDER --steps 200 --size 64
    python benchmarks/compare.py weights --work FOLDER --steps 600

Makes synthetic heads once, trains each line of the table and prints its errors against the truth in the head mask.
With --seconds, every line is trained again for the seconds that the slowest took.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctmr.config import load_config, with_steps
from ctmr.evaluation import evaluate
from ctmr.synth import write_heads
from ctmr.training import train

PAPER = ("data.channels=1", "network.filters=32", "network.discriminator_filters=32")
TABLES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "readings": (
        "paper",
        {
            "resnet34": (*PAPER, "network.generator=resnet34"),
            "resnet34 with skips": (*PAPER, "network.generator=resnet34", "network.skips=true"),
            "resnet50": (*PAPER, "network.generator=resnet50"),
            "resnet, 16 blocks": (*PAPER, "network.generator=resnet", "network.blocks=16"),
        },
    ),
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
    rows = [
        train_line(options, data, name, options.steps, f"{options.steps} steps") for name in names
    ]
    if options.seconds:
        longest = max(row.seconds for row in rows)
        for row in rows[:]:
            if row.seconds < 0.9 * longest:
                steps = round(row.steps * longest / row.seconds)
                rows.append(train_line(options, data, row.name, steps, f"{longest:.0f} s"))
    print_table(rows)
    if options.json:
        print(json.dumps([vars(row) for row in rows]))


def train_line(options: argparse.Namespace, data: Path, name: str, steps: int, budget: str) -> Row:
    """Train one line of the table for that many steps and evaluate it."""
    preset, lines = TABLES[options.table]
    config = load_config(
        preset,
        overrides=(
            f"data.size={options.size}",
            "data.patient_pattern=(subject-[0-9]+)",
            f"train.sample_every={steps}",
            f"train.checkpoint_every={steps}",
            *lines[name],
        ),
    )
    run = options.work / f"{options.table}-{list(lines).index(name)}-{steps}"
    if not (run / "model").exists():
        train(with_steps(config, steps, None), data, run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = sum(row["seconds_per_step"] for row in log) / len(log) * steps
    found = evaluate(run, data / "test", out=run / "evaluation").summary["directions"]
    errors = [found[direction]["mae"]["mean"] for direction in ("mr-to-ct", "ct-to-mr")]
    return Row(name, budget, steps, seconds, *errors)


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
