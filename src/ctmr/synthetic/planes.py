"""Where a slice lies in a head: pose, size, deformation, thickness."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from ctmr.synthetic.anatomies import Anatomy
from ctmr.synthetic.shapes import Array

LAYERS = 4
"""Samples of a voxel, spread over its thickness and its area."""
BELOW_MM = 35.0
"""Slices reach this far below the lowest plane with brain in it."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The places of the samples of one slice.

    Attributes:
        index: Of each sample in `Anatomy.packed`, flat (LAYERS, H, W).
        offsets_mm: Height of each layer over the middle of the slice.
        pixel_mm: Pixel size of this person, whose head has been stretched.
        zoom: Size of this head over that of the anatomy.
    """

    index: npt.NDArray[np.int64]
    offsets_mm: Array
    pixel_mm: float
    zoom: float

    def sample(self, packed: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Values of the nearest voxels (LAYERS, H, W)."""
        return packed.ravel()[self.index]


class Cut(NamedTuple):
    """One slice of a stack through a head in one pose."""

    above_mm: float
    """Height over the middle of the brain, along the slices' normal."""
    pixel_mm: float
    slice_mm: float


def draw_plane(
    rng: np.random.Generator,
    anatomy: Anatomy,
    shape: tuple[int, int],
    pixel_mm: float = 1.0,
    cut: Cut | None = None,
) -> Plane:
    """A random slice of a head, front at the top, the patient's right at the left.

    Args:
        rng: The same draws give the same pose, size and deformation.
        anatomy: The head.
        shape: Rows and columns.
        pixel_mm: Pixel size, from which that of a slice differs by up to a tenth.
        cut: The slice wanted of that pose; None draws one, and mirrors half of the heads.
    """
    voxels = anatomy.packed.shape
    turn = _rotation(np.radians(rng.normal(0, (6, 3, 5)).clip(-14, 14)))
    zoom = rng.normal(1, 0.05) * np.exp(rng.normal(0, 0.03, 3))
    pixel_mm *= float(rng.uniform(0.9, 1.1))
    thickness = float(rng.choice((1.0, 1.5, 3.0, 5.0), p=(0.4, 0.25, 0.2, 0.15)))
    low, high = (float(k) for k in anatomy.brain)
    if rng.uniform() < 0.6:  # most slices that people look at show brain
        low, high = low + 12, high - 8
    else:
        low, high = max(low - BELOW_MM, 8), min(high + 14, voxels[2] - 4)
    height = rng.uniform(low, high)
    across, above_mm = -1.0 if rng.uniform() < 0.5 else 1.0, 0.0  # 1: mirrored
    if cut is not None:
        across, height = -1.0, sum(anatomy.brain) / 2
        above_mm, pixel_mm, thickness = cut
    offsets = thickness * ((np.arange(LAYERS) + 0.5) / LAYERS - 0.5)

    # Millimetres from the middle of the slice, jittered within the pixel from layer to layer.
    rows, columns = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * pixel_mm for n in shape)
    inside = np.array([(-0.25, -0.1), (0.1, -0.25), (0.25, 0.1), (-0.1, 0.25)]) * pixel_mm
    shift = rng.normal(0, 5, 2).clip(-12, 12)
    x = across * (columns[None, None, :] + inside[:, :1, None] - shift[0])
    y = -(rows[None, :, None] + inside[:, 1:, None] - shift[1])
    z = above_mm + offsets[:, None, None]
    middle = np.array([voxels[0] / 2, voxels[1] / 2, height])
    bend = rng.uniform(0.3, 1.2)
    flat = np.zeros((LAYERS, *shape), np.int64)
    for axis in range(3):
        row = turn[axis] / zoom[axis]
        place = row[0] * x + row[1] * y + row[2] * z + bend * smooth(rng, shape, 6)
        nearest = np.rint(place + middle[axis]).astype(np.int64).clip(0, voxels[axis] - 1)
        flat = flat * voxels[axis] + nearest
    return Plane(flat, offsets.astype(np.float32), pixel_mm, float(zoom.mean()))


def smooth(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Array:
    """A smooth random field (1, H, W) of about unit variance with so many bumps a side."""
    nodes = rng.standard_normal((cells + 2, cells + 2), np.float32) * np.float32(1.6)
    field = Pillow.fromarray(nodes).resize(shape[::-1], Pillow.Resampling.BICUBIC)
    return np.asarray(field)[None]


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return turn
