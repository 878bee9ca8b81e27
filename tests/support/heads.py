"""Slices like those of heads, and a data folder of them."""

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

COUNTS = {"trainA": 10, "trainB": 8, "testA": 3, "testB": 3}


def head(subject: int, modality: str, height: int, width: int) -> np.ndarray:
    """A slice like a head's, 8-bit grey: scalp, skull, brain and ventricles; MR shows them in other greys."""
    rng = np.random.default_rng([7, subject])
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    middle = rng.uniform(-0.08, 0.08, 2)
    tall, wide = rng.uniform(0.8, 0.9), rng.uniform(0.65, 0.8)
    radius = np.hypot((rows - middle[0]) / tall, (columns - middle[1]) / wide)
    greys = {"ct": (90, 245, 115, 60), "mr": (200, 25, 130, 45)}[modality]
    image = np.full((height, width), 4.0 if modality == "mr" else 0.0)
    for outside, grey in zip((1.0, 0.93, 0.8, rng.uniform(0.2, 0.3)), greys, strict=True):
        image[radius < outside] = grey
    if modality == "mr":
        image *= 1 + 0.15 * columns  # a bias field
    image += rng.normal(0, 3, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def save_grey(path: Path, pixels: np.ndarray) -> Path:
    """Write a grey image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return path


def write_data(folder: Path) -> Path:
    """Write `trainA trainB testA testB`: training subjects differ, test subjects pair by name."""
    for n in range(COUNTS["trainA"]):
        save_grey(folder / "trainA" / f"ct_{n:02d}.png", head(n, "ct", 48, 48))
    for n in range(COUNTS["trainB"]):
        save_grey(folder / "trainB" / f"mr_{n:02d}.png", head(100 + n, "mr", 44, 52))
    for n in range(COUNTS["testA"]):
        save_grey(folder / "testA" / f"head_{n:02d}.png", head(200 + n, "ct", 48, 48))
        save_grey(folder / "testB" / f"head_{n:02d}.png", head(200 + n, "mr", 48, 48))
    return folder


def stored_codes(store):
    """The codes of all slices of a store, one after the other."""
    folders = [(split, modality) for split in ("train", "test") for modality in ("ct", "mr")]
    slices = [store.codes(*each, n).ravel() for each in folders for n in range(store.count(*each))]
    return np.concatenate(slices)
