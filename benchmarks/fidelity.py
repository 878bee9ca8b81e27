"""This project against the reference implementation: the same folders, the same pairs, the same figures.

    python benchmarks/fidelity.py --reference PATH --reference-python PYTHON --work FOLDER
    python benchmarks/fidelity.py ... --data DATA --pairs PAIRS     (both of images; without them: synthetic heads)

PATH is a clone of pytorch-CycleGAN-and-pix2pix, PYTHON the interpreter of an environment that can run it. Both programs
are given the same 8-bit images of --size pixels. The reference is trained for --steps with its own default weights
(10, 10, 0.5) and with the paper's (8, 8, 2 in its terms); `small` for as many images, and for as many seconds as the reference's
first run takes by the median of steps timed in turn. One call of `evaluate` compares all of them with the truth.
Every stage is kept in --work and not done again, so that a run that was stopped goes on.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from ctmr.config import Config, load_config, with_steps
from ctmr.evaluation.evaluate import evaluate
from ctmr.imaging.image import luma
from ctmr.imaging.resampling import resize
from ctmr.io.image_info import write_image_info
from ctmr.io.images import read_image
from ctmr.io.listing import find_scans, stem_below
from ctmr.io.scan import info_within
from ctmr.synthetic.data_folder import write_heads
from ctmr.system.files import write_json
from ctmr.training.train import train
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import load_model
from ctmr.types import MODALITIES, OTHER, FloatArray

OLD_SMALL = Path(__file__).with_name("small-0.1.0.yaml")
WEIGHTS = {  # lambda_A, lambda_B, lambda_identity, which multiplies the other two
    "its defaults (10, 10, 0.5)": ("10", "10", "0.5"),
    "the paper's (8, 8, 2)": ("8", "8", "2"),
}
NETWORK = ("--netG", "resnet_6blocks", "--ngf", "32", "--input_nc", "1", "--output_nc", "1")
ROUNDS, TIMED = 3, 16  # of timing each program in turn, and steps in one of them
HU_A_LEVEL = 16.0  # of an 8-bit CT: 0 is -1024 HU, 255 is 3056 HU
OURS_IMAGES, OURS_SECONDS = "small, equal images", "small, equal seconds"


def main() -> None:
    """Train both programs on the same folders and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="clone of the reference")
    parser.add_argument("--reference-python", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder, kept")
    parser.add_argument("--data", type=Path, help="data folder of images, with --pairs")
    parser.add_argument("--pairs", type=Path, help="pairs of other patients, with --data")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--subjects", type=int, default=24, help="of the synthetic heads")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.data is None) != (options.pairs is None):
        parser.error("--data and --pairs belong together")
    options.work = options.work.absolute()
    write_folders(options)
    steps = epochs_of(options) * largest(options)
    reference, own = seconds_per_step(options)
    budgets = {OURS_IMAGES: steps, OURS_SECONDS: round(steps * reference / own)}
    folders = {f"reference, {name}": run_reference(options, name) for name in WEIGHTS}
    for name, count in budgets.items():
        run = options.work / "runs" / name.replace(", ", "-").replace(" ", "-")
        train_ours(options, run, count)
        folders[name] = translated(options, run)
    last = options.work / "runs" / OURS_SECONDS.replace(", ", "-").replace(" ", "-")
    found = evaluate(
        last,
        options.work / "pairs",
        out=options.work / "evaluation",
        answers={name: folder for name, folder in folders.items() if name != OURS_SECONDS},
    )
    seconds = {f"reference, {name}": steps * reference for name in WEIGHTS}
    seconds |= {name: count * own for name, count in budgets.items()}
    counts = dict.fromkeys(seconds, steps) | budgets
    print(f"seconds a step, median: reference {reference:.3f}, small {own:.3f}")
    print_table(found.summary, counts, seconds)


def write_folders(options: argparse.Namespace) -> None:
    """Write `data/{trainA,trainB}` and `pairs/{ct,mr,mask}`, 8-bit grey at the size, once."""
    done = options.work / "folders.done"
    if done.exists():
        return
    data, pairs = options.data, options.pairs
    if data is None:
        heads = options.work / "heads"
        write_heads(heads, subjects=options.subjects, size=options.size, seed=options.seed)
        sources = {"data/trainA": heads / "train/ct", "data/trainB": heads / "train/mr"}
        pairs = heads / "test"
    else:
        sources = {f"data/{name}": data / name for name in ("trainA", "trainB")}
    sources |= {f"pairs/{name}": pairs / name for name in (*MODALITIES, "mask")}
    for name, source in sources.items():
        if source.is_dir():
            shutil.rmtree(options.work / name, ignore_errors=True)
            write_8_bit(source, options.work / name, options.size)
    done.touch()


def write_8_bit(source: Path, folder: Path, size: int) -> None:
    """Copy a folder of images as 8-bit grey PNG of `size` pixels a side; HU keep a scale in `ctmr.json`."""
    folder.mkdir(parents=True)
    spacings = {}
    for path, *_ in find_scans(source):
        image = read_image(path, info=info_within(path.parent, source))
        grey: FloatArray = luma(image.array) if image.array.ndim == 3 else image.array
        if image.unit == "HU":
            grey = (grey + np.float32(1024)) / np.float32(HU_A_LEVEL)
        elif image.depth == 16:
            grey = grey / np.float32(257)
        if folder.name == "mask":
            grey = np.where(grey > 0, np.float32(255), np.float32(0))
        grey = resize(grey, size, size)
        if folder.name == "mask":
            grey = np.where(grey > 127, np.float32(255), np.float32(0))
        name = f"{stem_below(path, source)}.png"
        if image.spacing_mm is not None:
            rows, columns = image.array.shape[:2]
            across = image.spacing_mm
            spacings[name] = (across[0] * rows / size, across[1] * columns / size)
        levels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(levels).save(folder / name)
    if image.unit == "HU" or spacings:
        write_image_info(folder, image.unit, files=spacings)
    if image.unit == "HU":  # its default scale is that of 16 bits
        content = json.loads((folder / "ctmr.json").read_text())
        write_json(folder / "ctmr.json", content | {"slope": HU_A_LEVEL})


def largest(options: argparse.Namespace) -> int:
    """Images of the larger training folder: the steps of an epoch of either program."""
    folders = (options.work / "data" / name for name in ("trainA", "trainB"))
    return max(len(find_scans(folder)) for folder in folders)


def epochs_of(options: argparse.Namespace) -> int:
    """Whole epochs nearest to --steps; the reference knows no steps."""
    return max(2, round(int(options.steps) / largest(options)))


def reference_train(options: argparse.Namespace, name: str, *more: str) -> None:
    """Run the reference's train.py in its own environment; its output goes to NAME.log."""
    size = options.size
    command = [
        *(str(options.reference_python), "train.py", "--dataroot", str(options.work / "data")),
        *("--name", name, "--checkpoints_dir", str(options.work / "reference"), *NETWORK),
        *("--ndf", "32", "--model", "cycle_gan", "--no_html", "--display_freq", "1000000"),
        *("--load_size", str(round(size * 143 / 128)), "--crop_size", str(size)),
        *("--save_latest_freq", "1000000", "--num_threads", "1", *more),
    ]
    with (options.work / f"{name}.log").open("w") as log:
        subprocess.run(command, cwd=options.reference, stdout=log, stderr=log, check=True)


def seconds_per_step(options: argparse.Namespace) -> tuple[float, float]:
    """Median seconds of a step of the reference and of `small`, timed in turn, without the first steps."""
    kept = options.work / "seconds.json"
    if not kept.exists():
        theirs: list[float] = []
        own: list[float] = []
        seconds: list[float] = []
        for _ in range(ROUNDS):
            shutil.rmtree(options.work / "reference" / "timing", ignore_errors=True)
            short = ("--max_dataset_size", str(TIMED), "--n_epochs", "1", "--n_epochs_decay", "0")
            reference_train(options, "timing", *short, "--print_freq", "1")
            log = (options.work / "timing.log").read_text()
            theirs += [float(s) for s in re.findall(r"\btime: ([\d.]+)", log)][TIMED // 4 :]
            seconds.clear()
            with tempfile.TemporaryDirectory() as scratch:
                train(
                    our_config(options, 1000),
                    options.work / "data",
                    Path(scratch) / "run",
                    stop_after=TIMED,
                    observer=lambda row, _: seconds.append(row["seconds_per_step"]),
                )
                own += seconds[TIMED // 4 :]
        write_json(kept, {"reference": statistics.median(theirs), "ours": statistics.median(own)})
    content = json.loads(kept.read_text())
    return content["reference"], content["ours"]


def run_reference(options: argparse.Namespace, weights: str) -> Path:
    """Train the reference and translate the pairs; the folder with `ct/` and `mr/` of its translations."""
    name = f"reference-{list(WEIGHTS).index(weights)}"
    results: Path = options.work / "answers" / name
    if results.exists():
        return results
    epochs = epochs_of(options)
    if not (options.work / "reference" / name / "latest_net_G_B.pth").exists():
        cycle_a, cycle_b, identity = WEIGHTS[weights]
        reference_train(
            options,
            name,
            *("--lambda_A", cycle_a, "--lambda_B", cycle_b, "--lambda_identity", identity),
            *("--n_epochs", str(epochs - epochs // 2), "--n_epochs_decay", str(epochs // 2)),
            *("--save_epoch_freq", str(epochs)),
        )
    scratch = options.work / "answers" / f".{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    for suffix, source, to in (("_A", "ct", "mr"), ("_B", "mr", "ct")):
        results = scratch / f"results{suffix}"
        size = str(options.size)
        command = [
            *(str(options.reference_python), "test.py", "--model", "test", "--no_dropout"),
            *("--dataroot", str(options.work / "pairs" / source), "--model_suffix", suffix),
            *("--name", name, "--checkpoints_dir", str(options.work / "reference"), *NETWORK),
            *("--load_size", size, "--crop_size", size, "--num_test", "1000000"),
            *("--results_dir", str(results)),
        ]
        with (options.work / f"{name}-test.log").open("a") as log:
            subprocess.run(command, cwd=options.reference, stdout=log, stderr=log, check=True)
        (scratch / to).mkdir(parents=True)
        for path in results.rglob("*_fake.png"):
            grey = Pillow.open(path).convert("L")
            grey.save(scratch / to / path.name.replace("_fake", ""))
        shutil.rmtree(results)
        info = options.work / "pairs" / to / "ctmr.json"
        if info.exists():
            shutil.copy(info, scratch / to)
    scratch.rename(results)
    return results


def our_config(options: argparse.Namespace, steps: int) -> Config:
    """The preset `small` of 0.1.0 at the size, for that many steps."""
    overrides = (
        f"seed={options.seed}",
        f"data.size={options.size}",
        f"train.sample_every={steps}",
        *(() if options.data else ("data.patient_pattern=(subject-[0-9]+)",)),
    )
    return with_steps(load_config("small", OLD_SMALL, overrides), steps, None)


def train_ours(options: argparse.Namespace, run: Path, steps: int) -> None:
    """Train `small` for that many steps, or go on with it."""
    config = our_config(options, steps)
    train(config, options.work / "data", run, resume=(run / "checkpoints").exists())


def translated(options: argparse.Namespace, run: Path) -> Path:
    """The folder with `ct/` and `mr/` of a run's translations of the pairs."""
    results: Path = options.work / "answers" / run.name
    for to in MODALITIES:
        source = OTHER[to]
        if not (results / to).exists():
            pairs = options.work / "pairs" / source
            translate_files(load_model(run), pairs, results / to, to, quality="none")
    return results


def print_table(
    summary: Mapping[str, Any], steps: Mapping[str, int], seconds: Mapping[str, float]
) -> None:
    """Every method in both directions as a Markdown table."""
    print(f"{summary['n']} pairs of {summary['patients']} patients; {summary['protocol']}\n")
    for direction, each in summary["directions"].items():
        rows = {OURS_SECONDS: each, **each["others"], **each["baselines"]}
        print(f"| {direction} | steps | seconds | MAE, {each['unit']} | shifted | SSIM |", end="")
        print(f" its MAE less that of {OURS_SECONDS} |")
        print("|---|---|---|---|---|---|---|")
        for name, figures in rows.items():
            cells = (
                name,
                f"{steps[name]}" if name in steps else "-",
                f"{seconds[name]:.0f}" if name in seconds else "-",
                interval(figures["mae"], 1),
                f"{figures['mae_shifted']['mean']:.1f}",
                f"{figures['ssim']['mean']:.3f}",
                interval(each["difference"][name], 1) if name in each["difference"] else "-",
            )
            print(f"| {' | '.join(cells)} |")
        print()


def interval(figure: Mapping[str, Any], digits: int) -> str:
    """Mean and 95 % interval."""
    low, high = figure["ci95"]
    return f"{figure['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
