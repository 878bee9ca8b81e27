"""A volume to the axial slices that networks are trained on: the head only, at the model's pixel size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctmr.errors import DataError
from ctmr.imaging.head import HeadRegion, find_head, whole_volume
from ctmr.imaging.intensity import Intensity
from ctmr.imaging.resampling import MARGIN, Scale, resize
from ctmr.imaging.volume import Volume, axial_slices, canonical
from ctmr.types import BoolArray, FloatArray, Modality

# Slices with less head than a disk of 5 cm are left out.
MIN_HEAD_MM2 = 2000.0
Window = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""
VENTRICLES_MM = 70.0  # below the top of the head
WINDOW_MARGIN = 1.04  # the window is this much larger than the head, where it is not larger anyway


@dataclass(frozen=True, eq=False)
class HeadSlices:
    """The axial slices of a head that are worth training on, from the bottom up.

    Attributes:
        volume: Canonical, with air round the head.
        head: Where the head is in it.
        kept: Indices K of the slices.
        heights_mm: How far each lies below the top of the head.
        grid: (rows, columns) of a whole slice at the model's pixel size.
        window: (top, left, height, width) of what is kept of it, about the head; what it has beyond the slice is air.
    """

    volume: Volume
    head: HeadRegion
    kept: tuple[int, ...]
    heights_mm: tuple[float, ...]
    grid: tuple[int, int]
    window: Window

    def images(self, intensity: Intensity) -> Iterator[FloatArray]:
        """Each slice (H, W) of the window in [-1, 1], everything outside the head set to -1."""
        inside = self.head.mask(self.volume.array.shape)
        low = np.float32(intensity.low)
        for k in self.kept:
            plane = np.where(inside[:, :, k], self.volume.array[:, :, k], low)
            image = intensity.to_unit(resize(axial_slices(plane[:, :, None])[0], *self.grid))
            yield self.windowed(image, -1.0)

    def windowed(self, image: FloatArray, beyond: float) -> FloatArray:
        """The window (H, W, ...) of a slice at the model's pixel size; `beyond` is what lies outside the slice."""
        return windowed(image, self.window, beyond)

    @property
    def centre(self) -> tuple[int, int, int]:
        """The voxel (I, J, K) of `volume` in the middle of the head, at the level of the ventricles if it is there."""
        i, j, _ = (round(float(nodes.mean())) for nodes in np.nonzero(self.head.coarse))
        shape, steps = self.volume.array.shape, self.head.steps
        k = max(self.kept[0], self.head.top - round(VENTRICLES_MM / self.volume.spacing_mm[2]))
        return min(i * steps[0], shape[0] - 1), min(j * steps[1], shape[1] - 1), k


def windowed(image: FloatArray, window: Window, beyond: float) -> FloatArray:
    """A window (H, W, ...) of an image; `beyond` is what lies outside the image."""
    top, left, height, width = window
    rows = slice(max(0, top), min(image.shape[0], top + height))
    columns = slice(max(0, left), min(image.shape[1], left + width))
    out = np.full((height, width, *image.shape[2:]), beyond, dtype=np.float32)
    place = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    out[place] = image[rows, columns]
    return out


def picture_window(head: BoolArray, grid: tuple[int, int], size: int) -> Window:
    """The window about the head in an image for training crops of `size` pixels, as `head_slices` has it.

    Args:
        head: Where the head is (H, W).
        grid: (h, w) of the image at the model's pixel size.
        size: Of a training crop.
    """
    spans = []
    for axis in (0, 1):
        places = np.flatnonzero(head.any(axis=1 - axis))
        first, last, zoom = int(places[0]), int(places[-1]), grid[axis] / head.shape[axis]
        spans.append(_about(zoom * (first + last + 1) / 2, zoom * (last - first + 1), size))
    (top, height), (left, width) = spans
    return top, left, height, width


def head_slices(
    volume: Volume, modality: Modality, scale: Scale, size: int, *, anyway: bool = False
) -> HeadSlices:
    """The slices of a volume for training crops of `size` pixels; with `anyway` all of one without a head.

    Raises:
        DataError: If there is no head in it, or it is too large or small at the scale.
    """
    upright = canonical(volume)
    head = _head_in(upright, modality, anyway=anyway)
    upright = head.on_air(upright)
    i_mm, j_mm, k_mm = upright.spacing_mm
    columns, rows, _ = upright.array.shape
    grid = scale.grid_for(rows, columns, (j_mm, i_mm))
    kept = np.flatnonzero(head.areas_mm2 >= MIN_HEAD_MM2)
    kept = kept[kept <= head.top]
    if kept.size == 0:
        raise DataError(
            f"expected slices with at least {MIN_HEAD_MM2:g} mm2 of head: found none in {volume!r}",
            fix="remove the scan, or give --anyway if it shows one",
        )
    i_nodes, j_nodes, _ = np.nonzero(head.coarse)
    top, height = _span(j_nodes, head.steps[1], rows, grid[0], size)
    left, width = _span(i_nodes, head.steps[0], columns, grid[1], size)
    return HeadSlices(
        volume=upright,
        head=head,
        kept=tuple(int(k) for k in kept),
        heights_mm=tuple(round(float((head.top - k) * k_mm), 3) for k in kept),
        grid=grid,
        window=(top, left, height, width),
    )


def _head_in(volume: Volume, modality: Modality, *, anyway: bool) -> HeadRegion:
    """The head in a canonical volume; all of it where none is found and a user vouches for it."""
    head = find_head(volume, modality)
    if anyway and (head is None or head.areas_mm2.max() < MIN_HEAD_MM2):
        return whole_volume(volume)
    if head is None:
        raise DataError(
            f"expected a head: found none in {volume!r}",
            fix="remove the scan, or give --anyway if it shows one",
        )
    return head


def _span(
    nodes: NDArray[np.int64], step: int, length: int, pixels: int, size: int
) -> tuple[int, int]:
    """First pixel and number of pixels of the window along one axis, which runs against the voxels' axis.

    `nodes` are those of the coarse grid in the head; as in its mask, one more on either side belongs to it.
    """
    first, last = (
        length - 1 - step * (int(nodes.max()) + 1),
        length - 1 - step * (int(nodes.min()) - 1),
    )
    zoom = pixels / length
    return _about(zoom * (first + last + 1) / 2, zoom * (last - first + 1), size)


def _about(centre: float, extent: float, size: int) -> tuple[int, int]:
    """First pixel and number of pixels of the window about a head of some extent, along one axis."""
    count = max(round(MARGIN * size), math.ceil(WINDOW_MARGIN * extent))
    return round(centre - count / 2), count
