"""Settings side by side on synthetic heads: readings of the paper's "ResNet34", weights of the losses, single terms.

    python benchmarks/compare.py readings --work FOLDER --steps 500 --seconds
    python benchmarks/compare.py weights --work FOLDER --steps 600
    python benchmarks/compare.py terms --work FOLDER --steps 1500 --seeds 0 1 2
    python benchmarks/compare.py heights --work FOLDER --steps 1500 --seeds 0 1 2

Makes synthetic heads once for each seed, trains each line of the table and prints its errors against the truth in the
head mask, and how much greater they are than those of the first line, head by head over all seeds. What is trained is
kept in FOLDER and not trained again.
With --seconds, every line is trained again for as many steps as fit into the seconds of the slowest. Seconds are the
steps times the median of a few steps timed at the start, one line after another: only then need the machine be idle.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctmr.config import Config, load_config, with_steps
from ctmr.data.pairs import find_pairs
from ctmr.evaluation.paired import look_at_pairs
from ctmr.evaluation.statistics import by_patient, summarise
from ctmr.synthetic.data_folder import Format, write_heads
from ctmr.training.train import train
from ctmr.translation.translator import load_model
from ctmr.types import DIRECTIONS

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
OLD_SMALL = Path(__file__).with_name("small-0.1.0.yaml")
ADVISED = (  # what that does beside its generator
    "data.ct_window=piecewise",
    "network.initialisation=uniform",
    "loss.cycle=2",
    "loss.identity=0",
    "loss.structure=4",
    "loss.cycle_noise=0.05",
    "train.learning_rate=0.0005",
    "train.ema=0.9995",
)
VOLUMES = ("heights",)  # tables of which the heads are volumes
TABLES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "terms": (
        "small",
        {
            "small": (),
            "no structure term": ("loss.structure=0",),
            "no noise on the way back": ("loss.cycle_noise=0",),
        },
    ),
    "heights": (
        "small",
        {"slices of any heights": (), "of similar heights": ("data.match_heights=true",)},
    ),
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
    """A trained line of the table: its cost, and its mean absolute error of each head in each direction."""

    name: str
    budget: str
    steps: int
    seconds: float
    mr_to_ct_hu: dict[str, float]
    ct_to_mr: dict[str, float]


def main() -> None:
    """Train every line of a table and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, kept")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of heads and training")
    parser.add_argument("--seconds", action="store_true", help="equal seconds too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for seed in options.seeds:
        make_heads(options, seed)
    names = TABLES[options.table][1]
    per_step = {name: seconds_per_step(options, name) for name in names}
    lines = [(name, options.steps, f"{options.steps} steps") for name in names]
    if options.seconds:
        budget = options.steps * max(per_step.values())
        for name in names:
            steps = round(budget / per_step[name])
            if steps > 1.1 * options.steps:
                lines.append((name, steps, f"{budget:.0f} s"))
    rows = []
    for name, steps, budget_text in lines:
        errors: dict[str, dict[str, float]] = {"mr-to-ct": {}, "ct-to-mr": {}}
        for seed in options.seeds:
            for direction, each in train_line(options, name, steps, seed).items():
                errors[direction] |= {f"{seed}/{head}": error for head, error in each.items()}
        seconds = steps * per_step[name]
        rows.append(Row(name, budget_text, steps, seconds, *errors.values()))
        print(f"{name}: trained and evaluated", file=sys.stderr, flush=True)
    print_table(rows)
    if options.json:
        print(json.dumps([vars(row) for row in rows]))


def heads_of(options: argparse.Namespace, seed: int) -> Path:
    """Where the heads of a seed are."""
    kind = "volumes" if options.table in VOLUMES else "heads"
    folder: Path = options.work / f"{kind}-{seed}"
    return folder


def make_heads(options: argparse.Namespace, seed: int) -> None:
    """Write the heads of a seed, once."""
    folder = heads_of(options, seed)
    if not folder.exists():
        form: Format = "nifti" if options.table in VOLUMES else "png"
        write_heads(
            folder,
            subjects=options.subjects,
            size=options.size,
            seed=seed,
            image_format=form,
        )


def line_config(options: argparse.Namespace, name: str, steps: int, seed: int) -> Config:
    """The settings of one line of the table."""
    preset, lines = TABLES[options.table]
    overrides = (
        f"seed={seed}",
        f"data.size={options.size}",
        "data.patient_pattern=(subject-[0-9]+)",
        f"train.sample_every={steps}",
        f"train.evaluate_every={steps}",
        f"train.checkpoint_every={max(1, steps // 2)}",
        *lines[name],
    )
    file = OLD_SMALL if preset == "small" else None
    return with_steps(load_config(preset, file, overrides), steps, None)


def seconds_per_step(options: argparse.Namespace, name: str) -> float:
    """Median of a few steps of one line, without the first."""
    seconds: list[float] = []
    seed = options.seeds[0]
    with tempfile.TemporaryDirectory() as scratch:
        train(
            line_config(options, name, options.steps, seed),
            heads_of(options, seed),
            Path(scratch) / "run",
            stop_after=min(10, options.steps),
            observer=lambda row, _: seconds.append(row["seconds_per_step"]),
        )
    return statistics.median(seconds[len(seconds) // 4 :])


def train_line(
    options: argparse.Namespace, name: str, steps: int, seed: int
) -> dict[str, dict[str, float]]:
    """Train one line of the table, or go on with it: for each direction the mean absolute error of each test head."""
    number = list(TABLES[options.table][1]).index(name)
    run = options.work / f"{options.table}-{number}-{steps}-{seed}"
    data = heads_of(options, seed)
    train(line_config(options, name, steps, seed), data, run, resume=(run / "checkpoints").exists())
    translator = load_model(run)
    pairs = find_pairs(data / "test", translator.model.card.data.patient_pattern)
    rows = look_at_pairs(translator, pairs, DIRECTIONS, only=("mae",)).rows
    return {
        direction: by_patient([row for row in rows if row.direction == direction], "mae")
        for direction in ("mr-to-ct", "ct-to-mr")
    }


def print_table(rows: Sequence[Row]) -> None:
    """The rows as a Markdown table: mean over heads, and in brackets how much more than the first row, with its interval."""
    print("| | budget | steps | seconds | MR to CT, MAE HU | CT to MR, MAE |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ct = compared(row.mr_to_ct_hu, rows[0].mr_to_ct_hu)
        mr = compared(row.ct_to_mr, rows[0].ct_to_mr)
        print(f"| {row.name} | {row.budget} | {row.steps} | {row.seconds:.0f} | {ct} | {mr} |")


def compared(errors: Mapping[str, float], first: Mapping[str, float]) -> str:
    """The mean error of the heads, and its difference from that of the first line, head by head."""
    mean = statistics.mean(errors.values())
    if errors == first:
        return f"{mean:.1f}"
    more = summarise([errors[head] - first[head] for head in first])
    low, high = more.ci95
    return f"{mean:.1f} ({more.mean:+.1f} [{low:+.1f}, {high:+.1f}])"


if __name__ == "__main__":
    main()
