"""What a bias of the training data does: lesions in the MR images only, against lesions in neither (Cohen et al. 2018).

    python benchmarks/lesions.py --work FOLDER --steps 2400

Makes synthetic heads, trains `small` on healthy CT and healthy MR, then on the same CT and the same MR heads with one or
two lesions each, and prints which lesions survive and where something is invented as one table of both. Every stage is
kept in --work and not done again.
"""

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import get_args

from ctmr.config import load_config, with_steps
from ctmr.evaluation.lesion_test import lesion_table
from ctmr.reporting.evaluation_section import lesion_rows
from ctmr.results import Lesions
from ctmr.synthetic.data_folder import write_heads
from ctmr.synthetic.scanner import Sequence
from ctmr.system.files import write_json
from ctmr.training.train import train
from ctmr.translation.translator import load_model

HEALTHY, BIASED = "healthy CT and MR", "healthy CT, MR with lesions"


def main() -> None:
    """Train both models and print their tables side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, kept")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--subjects", type=int, default=24)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sequence", choices=get_args(Sequence), default="t1")
    parser.add_argument("--heads", type=int, default=60, help="with lesions, to test on")
    parser.add_argument("--config", type=Path, help="such as benchmarks/small-0.1.0.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    found = {name: table_of(options, name, data) for name, data in folders(options).items()}
    write_json(options.work / "lesions.json", {name: asdict(each) for name, each in found.items()})
    print_side_by_side(found)


def folders(options: argparse.Namespace) -> dict[str, Path]:
    """The two data folders; they differ in the MR that is trained on."""
    healthy, lesions, biased = (
        options.work / name for name in ("healthy", "lesions", "healthy-ct-lesions-mr")
    )
    if not biased.exists():
        for folder, share in ((healthy, 0.0), (lesions, 1.0)):
            shutil.rmtree(folder, ignore_errors=True)
            write_heads(
                folder,
                subjects=options.subjects,
                size=options.size,
                sequence=options.sequence,
                lesions=share,
            )
        unfinished = options.work / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        without_list = shutil.ignore_patterns("subjects.json")  # it would say that all are healthy
        shutil.copytree(healthy, unfinished, ignore=without_list)
        shutil.rmtree(unfinished / "train" / "mr")
        shutil.copytree(lesions / "train" / "mr", unfinished / "train" / "mr")
        unfinished.rename(biased)
    return {HEALTHY: healthy, BIASED: biased}


def table_of(options: argparse.Namespace, name: str, data: Path) -> Lesions:
    """Train a model on a data folder, unless it is there, and count what becomes of lesions."""
    run = options.work / f"run-{data.name}-{options.steps}"
    config = load_config(
        "small",
        options.config,
        overrides=(
            f"data.size={options.size}",
            "data.patient_pattern=(subject-[0-9]+)",
            f"train.sample_every={options.steps}",
            *options.set,
        ),
    )
    if not (run / "model").exists():
        train(with_steps(config, options.steps, None), data, run)
    return lesion_table(load_model(run), sequence=options.sequence, heads=options.heads)


def print_side_by_side(found: dict[str, Lesions]) -> None:
    """Both tables as one in Markdown, the models below each other for each lesion."""
    tables = [lesion_rows(each) for each in found.values()]
    direction, lesion, *columns = tables[0][0]
    print(f"| {' | '.join((direction, lesion, 'trained on', *columns))} |")
    print("|---" * (3 + len(columns)) + "|")
    for rows in zip(*(rows for _, rows in tables), strict=True):
        for name, (of_direction, of_lesion, *cells) in zip(found, rows, strict=True):
            print(f"| {' | '.join((of_direction, of_lesion, name, *cells))} |")


if __name__ == "__main__":
    main()
