"""Samples a second of the loader, and how many times that is what a training step consumes.

    python benchmarks/loader.py [--preset small] [--images 200] [--workers 0,1,2] [--json]

Random images in a store, cropped and mirrored as in training; the first pass decodes, the store is read from then on.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from ctmr.config import load_config
from ctmr.data.dataset import UnpairedSlices, loader
from ctmr.data.prepare import prepare
from roofline import timed
from train_step import measure

ROUNDS = 3


def main() -> None:
    """Prepare once, then time batches for each number of workers, and a training step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--images", type=int, default=200, help="of each modality")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--steps", type=int, default=200, help="batches timed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load_config(options.preset)
    with tempfile.TemporaryDirectory() as scratch:
        side = round(1.12 * config.data.size)
        write_images(Path(scratch, "data"), options.images, side)
        decode = timed(
            lambda: prepare(Path(scratch, "data"), config.data, store=Path(scratch, "store"))
        )
        again = timed(
            lambda: prepare(Path(scratch, "data"), config.data, store=Path(scratch, "store"))
        )
        store = prepare(Path(scratch, "data"), config.data, store=Path(scratch, "store"))
        dataset = UnpairedSlices(store, config.data, 0)
        rates = {
            int(workers): rate(dataset, config.train.batch_size, options.steps, int(workers))
            for workers in options.workers.split(",")
        }
    step = float(measure(config, 4)["seconds"])
    needed = config.train.batch_size / step
    print(
        f"{2 * options.images} images of {side}x{side}: prepared in {decode:.2f} s, found again in {again:.2f} s"
    )
    print(
        f"a training step of {options.preset} takes {step:.3f} s: it needs {needed:.1f} samples/s\n"
    )
    print("| workers | samples/s | times what training needs |")
    print("|---|---|---|")
    for workers, found in rates.items():
        print(f"| {workers} | {found:.0f} | {found / needed:.0f} |")
    if options.json:
        print(
            json.dumps(
                {"step_seconds": step, "samples_per_second": rates, "prepare_seconds": decode}
            )
        )


def write_images(folder: Path, count: int, side: int) -> None:
    """Random grey PNG files as a data folder."""
    draw = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            values = draw.integers(0, 256, (side, side), dtype=np.uint8)
            Pillow.fromarray(values).save(folder / name / f"{i:04}.png")


def rate(dataset: UnpairedSlices, batch: int, steps: int, workers: int) -> float:
    """Samples a second once batches come, the median of a few rounds."""

    def once() -> float:
        batches = iter(loader(dataset, batch, 0, steps + 1, workers))
        next(batches)  # starts the workers
        return steps * batch / timed(lambda: list(itertools.islice(batches, steps)))

    return statistics.median(once() for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
