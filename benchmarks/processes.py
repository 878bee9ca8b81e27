"""Steps a second of one process of two threads and of two processes of one thread, in turn, on two cores.

    python benchmarks/processes.py --rounds 3

Trains `small` with a batch of 2 on synthetic heads; the seconds are those of a step, without start and evaluations.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ctmr.synthetic.data_folder import write_heads


def seconds_per_step(data: Path, place: Path, devices: int, steps: int) -> float:
    """Of the last half of a training."""
    words = [sys.executable, "-m", "ctmr", "train", data, "--out", place, "--preset", "small"]
    settings = ["train.batch_size=2", "train.log_every=1", "train.start=random"]
    more = [word for setting in settings for word in ("--set", setting)]
    words += ["--steps", steps, *more, *(("--devices", devices) if devices > 1 else ())]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run([*map(str, words)], check=True, env=environment, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    return float(statistics.median(row["seconds_per_step"] for row in rows[steps // 2 :]))


def main() -> None:
    """Measure both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    wanted = parser.parse_args()
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "heads"
        write_heads(data, subjects=2, size=176)
        for n in range(wanted.rounds):
            for devices, seconds in found.items():
                run = Path(place) / f"{n} {devices}"
                seconds.append(seconds_per_step(data, run, devices, wanted.steps))
                print(f"{devices} processes: {seconds[-1]:.3f} s a step", flush=True)
    one, two = (statistics.median(seconds) for seconds in found.values())
    print(f"two processes of one thread do {one / two:.2f} times the steps of one process of two")


if __name__ == "__main__":
    main()
