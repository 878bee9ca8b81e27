"""Seconds and CPU seconds of `ctmr audit` of many images and of `ctmr prepare` of many volumes.

    ctmr synth HEADS --subjects 8 --seed 3
    ctmr synth VOLUMES --format nifti --subjects 3 --size 128 --seed 5
    python benchmarks/data_time.py audit HEADS --count 5000
    python benchmarks/data_time.py prepare VOLUMES --count 100

Each scan of the folder is used many times: images are bent and get noise, and every seventh is a mirrored and darker
copy of another; volumes are shifted and get noise. The hashes at the end tell whether a change of the code changed a result.
Linux only: the CPU seconds are those of all processes, that of the fork server and its workers too.
"""

import argparse
import ctypes
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import scipy
from PIL import Image as Pillow

from ctmr.system.rng import stream
from ctmr.types import FloatArray, Matrix

SUBREAPER = 36  # of prctl: orphans become children of this process, so that their time is known
TRAINING_SHARE = 0.7
COPY_EVERY = 7
BEND_PIXELS = 9.0  # standard deviation


def main() -> None:
    """Write the folder, run the command on it and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("audit", "prepare"))
    parser.add_argument("heads", type=Path, help="of ctmr synth")
    parser.add_argument("--count", type=int, default=1000, help="scans in all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data, out = Path(scratch, "data"), Path(scratch, "out")
        write = write_images if options.command == "audit" else write_volumes
        for modality, letter in (("ct", "A"), ("mr", "B")):
            write(options.heads, modality, data, letter, options.count // 2)
        end = ["--out", str(out / "audit.json")] if options.command == "audit" else [str(out)]
        os.environ["CTMR_CACHE"] = str(Path(scratch, "cache"))
        print(timed([sys.executable, "-m", "ctmr", options.command, str(data), *end]))
        for path in sorted(out.iterdir()):
            print(hashlib.sha256(path.read_bytes()).hexdigest()[:16], path.name)


def write_images(heads: Path, modality: str, data: Path, letter: str, count: int) -> None:
    """Images that differ, and copies of some, in the training and the test folder of a modality."""
    files = sorted(heads.glob(f"t*/{modality}/*.png"))
    known = [np.asarray(Pillow.open(path).convert("L"), np.float32) for path in files]
    last = known[0]
    for n in range(count):
        rng = stream("data_time", modality, n)
        if n % COPY_EVERY:
            last = bent(known[int(rng.integers(len(known)))], rng)
            image = last
        else:
            image = 0.8 * last[:, ::-1] + 5
        image = np.where(image > 15, image + rng.normal(0, 3, image.shape), image)
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        Pillow.fromarray(pixels).save(place(data, letter, n, count) / f"{n:05d}.png")


def bent(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """An image (H, W) that no comparison takes for the same."""
    bends = [_smooth(rng.normal(0, BEND_PIXELS, (6, 6)), image.shape) for _ in image.shape]
    places = np.indices(image.shape) + np.stack(bends)
    texture = _smooth(rng.normal(1, 0.15, (64, 64)), image.shape)
    return np.asarray(
        scipy.ndimage.map_coordinates(image, places, order=1, mode="nearest") * texture, np.float32
    )


def _smooth(nodes: Matrix, shape: tuple[int, ...]) -> Matrix:
    zooms = [pixels / few for pixels, few in zip(shape, nodes.shape, strict=True)]
    smooth: Matrix = scipy.ndimage.zoom(nodes, zooms, order=1)
    return smooth


def write_volumes(heads: Path, modality: str, data: Path, letter: str, count: int) -> None:
    """Volumes that differ by shifts and noise."""
    files = sorted(heads.glob(f"t*/{modality}/*.nii.gz"))
    for n in range(count):
        rng = stream("data_time", modality, n)
        known = nib.nifti1.load(files[n % len(files)])
        values = np.roll(np.asarray(known.dataobj), rng.integers(-3, 4, 3), (0, 1, 2))
        values = np.rint(values + rng.normal(0, 4, values.shape))
        noisy = nib.nifti1.Nifti1Image(values.astype(np.int16), known.affine)
        nib.nifti1.save(noisy, place(data, letter, n, count) / f"{n:05d}.nii.gz")


def place(data: Path, letter: str, n: int, count: int) -> Path:
    """The folder of the n-th of some scans."""
    folder = data / f"{'train' if n < TRAINING_SHARE * count else 'test'}{letter}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def timed(command: list[str]) -> str:
    """What a command and all processes that it leaves take; an audit ends with 3 where it finds an error."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before, start, seconds = os.times(), time.perf_counter(), 0.0
    first = os.spawnv(os.P_NOWAIT, command[0], command)
    while True:
        try:
            process, status = os.wait()
        except ChildProcessError:
            break
        if process == first:
            seconds = time.perf_counter() - start
            if os.waitstatus_to_exitcode(status) not in (0, 3):
                raise SystemExit(f"ctmr ended with {os.waitstatus_to_exitcode(status)}")
    after = os.times()
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return f"{seconds:.1f} s, {user + system:.1f} CPU s on {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
