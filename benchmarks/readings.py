"""The paper's "ResNet34" read in different ways: equal steps and equal seconds on synthetic heads.

    python benchmarks/readings.py --work FOLDER --steps 300 --size 128

Makes synthetic heads once, trains each reading with the `paper` preset (one channel, smaller where told) and prints
one table of errors against the truth in the head mask. The second block gives every reading the seconds that the
slowest took for its steps.
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

READINGS: dict[str, tuple[str, ...]] = {
    "resnet34: encoder and deconvolution": ("network.generator=resnet34",),
    "resnet34 with skips": ("network.generator=resnet34", "network.skips=true"),
    "resnet50: encoder and deconvolution": ("network.generator=resnet50",),
    "resnet: 16 blocks at 1/4": ("network.generator=resnet", "network.blocks=16"),
}


@dataclass(frozen=True)
class Row:
    """A trained reading: its cost and its mean absolute errors."""

    reading: str
    budget: str
    steps: int
    seconds: float
    mr_to_ct_hu: float
    ct_to_mr_grey: float


def main() -> None:
    """Train every reading twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = options.work / "heads"
    if not data.exists():
        write_heads(data, subjects=options.subjects, size=options.size)
    rows = [
        train_reading(options, data, name, options.steps, f"{options.steps} steps")
        for name in READINGS
    ]
    longest = max(row.seconds for row in rows)
    for row in list(rows):
        if row.seconds < 0.9 * longest:
            steps = round(row.steps * longest / row.seconds)
            rows.append(train_reading(options, data, row.reading, steps, f"{longest:.0f} s"))
    print_table(rows)
    if options.json:
        print(json.dumps([vars(row) for row in rows]))


def train_reading(
    options: argparse.Namespace, data: Path, reading: str, steps: int, budget: str
) -> Row:
    """Train one reading for that many steps and evaluate it."""
    config = load_config(
        "paper",
        overrides=(
            f"data.size={options.size}",
            "data.channels=1",
            f"network.filters={options.filters}",
            f"network.discriminator_filters={options.filters}",
            "data.patient_pattern=(subject-[0-9]+)",
            f"train.sample_every={steps}",
            f"train.checkpoint_every={steps}",
            *options.settings,
            *READINGS[reading],
        ),
    )
    run = options.work / f"{list(READINGS).index(reading)}-{steps}"
    if not (run / "model").exists():
        train(with_steps(config, steps, None), data, run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = sum(row["seconds_per_step"] for row in log) / len(log) * steps
    found = evaluate(run, data / "test", out=run / "evaluation").summary["directions"]
    return Row(
        reading,
        budget,
        steps,
        seconds,
        found["mr-to-ct"]["mae"]["mean"],
        found["ct-to-mr"]["mae"]["mean"],
    )


def print_table(rows: Sequence[Row]) -> None:
    """The rows as a Markdown table."""
    print("| reading | budget | steps | seconds | MR to CT, MAE HU | CT to MR, MAE grey |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.reading} | {row.budget} | {row.steps} | {row.seconds:.0f}"
            f" | {row.mr_to_ct_hu:.1f} | {row.ct_to_mr_grey:.1f} |"
        )


if __name__ == "__main__":
    main()
