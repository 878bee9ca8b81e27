"""Lesions of synthetic heads: their kinds, sizes, places and shapes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctmr.synthetic.shapes import Array, Point, Points

LESIONS = ("bleed", "infarct", "tumour", "calcification")
"""Kinds of lesion that a head can be given."""
LESION_RADIUS_MM = {
    "bleed": (7.0, 18.0),
    "infarct": (10.0, 24.0),
    "tumour": (7.0, 16.0),
    "calcification": (2.0, 4.0),
}
"""Smallest and largest radius of each kind."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion, ball-like with an uneven surface."""

    kind: str
    """One of `LESIONS`."""
    centre_mm: Point
    """World RAS coordinates."""
    radius_mm: float
    """Mean radius; the oedema round a tumour reaches 1.7 times as far."""


def place_lesions(
    rng: np.random.Generator, kinds: Sequence[str], at: Points, room: Array
) -> tuple[Lesion, ...]:
    """Lesions at random points of the brain; `room` is the depth in it at the points `at`."""
    found = []
    for kind in kinds:
        radius = float(rng.uniform(*LESION_RADIUS_MM[kind]))
        inside = np.flatnonzero(room > min(radius, 12))
        n = int(inside[rng.integers(len(inside))])
        x, y, z = (float(a.flat[n] + rng.uniform(-3, 3)) for a in at)  # off the lattice
        found.append(Lesion(kind, (x, y, z), radius))
    return tuple(found)


def lesion_depths(lesion: Lesion, f: dict[str, Array], at: Points) -> Iterator[tuple[str, Array]]:
    """The tissues of a lesion, each with the depth in it of every voxel in mm."""
    x, y, z = (a - np.float32(b) for a, b in zip(at, lesion.centre_mm, strict=True))
    distance = np.sqrt(x * x + y * y + z * z)
    depth = np.float32(lesion.radius_mm) * (1 + np.float32(0.12) * f["bumps"]) - distance
    inside = f["cavity"] - 2
    if lesion.kind == "tumour":
        yield "oedema", np.minimum(depth + np.float32(0.7 * lesion.radius_mm), inside)
    yield lesion.kind, np.minimum(depth, inside)
