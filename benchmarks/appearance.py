"""Learn the fixed table of `ctmr audit` from synthetic heads.

    python benchmarks/appearance.py [--heads 100]

writes src/ctmr/imaging/appearance.json anew. Each head is cut into axial, coronal and sagittal slices of CT and MR, shown as
clinics export them: a random window or gamma, sharpened or blurred, turned by a few degrees, padded, as JPEG.
"""

import argparse
import io
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from ctmr.imaging.appearance import Question, Row, fit_logistic
from ctmr.imaging.descriptors import Descriptors, describe, outlined, shrunk
from ctmr.synthetic.head import synthesise_head
from ctmr.system.rng import stream
from ctmr.types import FloatArray

TABLE = Path(__file__).resolve().parent.parent / "src" / "ctmr" / "imaging" / "appearance.json"
SPACING_MM = 1.7
SHAPE = (124, 140, 100)
CT_WIDTHS = (80, 100, 150, 250, 400, 1500, 3500)  # HU
RIDGE = 100.0
VERTEX_MM, BASE_MM = (
    32.0,
    112.0,
)  # below the top of the head: above the first vertex, below the second skull base

Plane = Literal["axial", "coronal", "sagittal"]


class Sample(NamedTuple):
    """One picture of a synthetic head."""

    descriptors: Descriptors
    is_mr: bool
    plane: Plane
    below_top_mm: float


def samples(seed: int) -> list[Sample]:
    """The pictures of one head."""
    rng = stream("appearance", seed)
    spacing = (SPACING_MM,) * 3
    head = synthesise_head(
        seed, shape=SHAPE, spacing_mm=spacing, sequence="t1" if seed % 2 else "t2"
    )
    ct, mr, mask = (array[::-1, ::-1].astype(np.float32) for array in (head.ct, head.mr, head.mask))
    top = int(np.flatnonzero(mask.any(axis=(0, 1)))[-1])
    cuts: list[tuple[Plane, int]] = [("axial", k) for k in range(2, top - 2, 4)]
    cuts += [("coronal", int(j)) for j in rng.integers(45, 105, 8)]
    cuts += [("sagittal", int(i)) for i in rng.integers(42, 82, 8)]
    found = []
    for plane, k in cuts:
        shown = {
            False: windowed(cut(ct, plane, k), rng),
            True: exported(cut(mr, plane, k), mr[mask > 0], rng),
        }
        for is_mr, picture in shown.items():
            small = outlined(shrunk(worn(picture, rng)))
            if small.head.any():
                found.append(Sample(describe(small), is_mr, plane, (top - k) * SPACING_MM))
    return found


def cut(volume: FloatArray, plane: Plane, k: int) -> FloatArray:
    """A slice with the front, or the top, of the head at the top."""
    if plane == "axial":
        return volume[:, :, k].T
    return (volume[:, k] if plane == "coronal" else volume[k]).T[::-1]


def windowed(hu: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A CT in a random window, 0 to 1."""
    width = float(rng.choice(CT_WIDTHS) * rng.uniform(0.8, 1.25))
    middle = width / 2
    if width > 120:
        middle = float(rng.uniform(20, 60) if width < 520 else rng.uniform(300, 600))
    return np.asarray(np.clip((hu - middle) / width + 0.5, 0, 1), np.float32)


def exported(mr: FloatArray, head: FloatArray, rng: np.random.Generator) -> FloatArray:
    """An MR of random white, gamma and grey of the background, 0 to 1."""
    white = float(np.percentile(head, rng.uniform(97.5, 99.9)))
    shown = np.clip(mr / white, 0, 1) ** float(np.exp(rng.normal(0, 0.35)))
    grey = 0.08 * rng.random() if rng.random() < 0.25 else 0.0
    return np.asarray(grey + (1 - grey) * shown, np.float32)


def worn(picture: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The picture after what happens to pictures on the way, 0 to 255."""
    draw = rng.random()
    if draw < 0.2:
        picture = ndimage.gaussian_filter(picture, rng.uniform(0.3, 1))
    elif draw < 0.4:
        finer = picture - ndimage.gaussian_filter(picture, 1.2)
        picture = np.clip(picture + rng.uniform(0.5, 2.5) * finer, 0, 1)
    picture = ndimage.rotate(picture, rng.uniform(-12, 12), reshape=False, order=1)
    if rng.random() < 0.5:
        picture = np.pad(picture, [tuple(map(int, rng.integers(0, 20, 2))) for _ in range(2)])
    else:
        picture = np.kron(picture, np.ones((2, 2)))
    stream_ = io.BytesIO()
    grey = Pillow.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    grey.save(stream_, "JPEG", quality=int(rng.integers(50, 100)))
    return np.asarray(Pillow.open(stream_)).astype(np.float32)


def learn(
    found: list[Sample], answers: NDArray[np.bool_], descriptors: tuple[str, ...]
) -> dict[str, object]:
    """A row of the table."""
    values = np.array(
        [[getattr(sample.descriptors, name) for name in descriptors] for sample in found]
    )
    low, centre, high = np.percentile(values, (16, 50, 84), axis=0)
    scale = (high - low) / 2 + 0.02
    row = Row(descriptors, centre.round(4), scale.round(4), np.zeros(0))
    terms = row.terms([sample.descriptors for sample in found])
    start = np.zeros(terms.shape[1])
    weights = fit_logistic(terms, answers.astype(np.float64), start, RIDGE)
    right = ((terms @ weights > 0) == answers).mean()
    print(f"{len(found)} pictures, {answers.mean():.0%} yes: {right:.1%} right on themselves")
    return {
        "descriptors": descriptors,
        "centre": row.centre.tolist(),
        "scale": row.scale.tolist(),
        "weights": weights.round(4).tolist(),
    }


def main() -> None:
    """Learn the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=100)
    heads = parser.parse_args().heads
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = [each for head in pool.map(samples, range(1000, 1000 + heads)) for each in head]
    looks = Descriptors._fields[: Descriptors._fields.index("symmetry") + 1]
    axial_ct = [each for each in found if each.plane == "axial" and not each.is_mr]
    height = np.array([each.below_top_mm for each in axial_ct])
    rows: dict[Question, dict[str, object]] = {
        "mr": learn(found, np.array([each.is_mr for each in found]), looks),
        "not_axial": learn(
            found, np.array([each.plane != "axial" for each in found]), Descriptors._fields
        ),
        "below_brain": learn(axial_ct, height > BASE_MM, looks),
        "vertex": learn(axial_ct, height < VERTEX_MM, looks),
    }
    TABLE.write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
