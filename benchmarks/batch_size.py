"""What a larger batch does to the result at the same number of images seen: synthetic heads, several seeds.

    python benchmarks/batch_size.py --images 1600 --batches 1 8 --seeds 0 1 2

Prints a line for each training, mean SSIM of both directions on pairs that were not seen, then JSON.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from ctmr.config import PRESETS, overlaid
from ctmr.synthetic.data_folder import write_heads
from ctmr.system.files import read_log
from ctmr.training.train import train

SMALL = (
    *("data.size=64", "data.pixel_mm=3.5", "network.filters=8", "network.discriminator_filters=8"),
    *(
        "train.start=random",
        "train.precision=float32",
        "train.ema=0.99",
        "train.sample_every=100000",
    ),
    *("train.evaluate_every=100000", "train.checkpoint_every=100000"),
)
LOSSES = {
    "half-real pairs": ("loss.half_real=1",),
    "cycle": (
        *("loss.adversary=1", "loss.cycle=2", "loss.structure=4", "loss.half_real=0"),
        "train.learning_rate=0.0002",
    ),
}


def main() -> None:
    """Train each combination and print its SSIM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", choices=LOSSES, nargs="+", default=[*LOSSES])
    wanted = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "heads"
        write_heads(data, subjects=12, size=64, image_format="nifti")
        for losses in wanted.losses:
            for batch in wanted.batches:
                for seed in wanted.seeds:
                    length = [f"train.batch_size={batch}", f"train.steps={wanted.images // batch}"]
                    settings = [*SMALL, *LOSSES[losses], *length, f"seed={seed}"]
                    run = Path(place) / f"{losses} {batch} {seed}"
                    train(overlaid(PRESETS["small"], settings), data, run)
                    score = float(read_log(run / "evaluations.jsonl")[-1]["score"])
                    found.setdefault(losses, {}).setdefault(str(batch), []).append(score)
                    print(f"{losses}, batch {batch}, seed {seed}: {score:.4f}", flush=True)
    for losses, by_batch in found.items():
        for each, scores in by_batch.items():
            print(f"{losses}, batch {each}: {statistics.mean(scores):.4f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
