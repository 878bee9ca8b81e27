"""The pixel size a network sees and how an image gets there: one rule for training and translation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from ctmr.errors import DataError
from ctmr.types import BoolArray, FloatArray, Spacing

MARGIN = 1.12  # Li 2023: images are brought to 1.12 times the training size, then cropped
MAX_ASPECT = 8
PICTURE_MM = (190.0, 310.0)  # long side of a picture of a head
NEAR = 0.05  # pixel sizes that differ by less are not resampled


@dataclass(frozen=True)
class Scale:
    """The scale of a trained network.

    Attributes:
        short_side: Pixels of the short side of an image whose spacing is unknown.
        pixel_mm: Pixel size for an image with a spacing; None if the training images had none.
    """

    short_side: int
    pixel_mm: float | None = None

    def shape_for(
        self, height: int, width: int, spacing_mm: Spacing | None = None
    ) -> tuple[int, int]:
        """(height, width) in pixels at this scale, aspect kept.

        Raises:
            DataError: If one side would be more than 8 times the other or `short_side`, or less than an 8th of it.
        """
        if self.pixel_mm is None or spacing_mm is None:
            zoom = self.short_side / min(height, width)
            shape = round(height * zoom), round(width * zoom)
        else:
            rows_mm, columns_mm = height * spacing_mm[0], width * spacing_mm[1]
            shape = (
                max(1, round(rows_mm / self.pixel_mm)),
                max(1, round(columns_mm / self.pixel_mm)),
            )
        longest, shortest = MAX_ASPECT * self.short_side, self.short_side // MAX_ASPECT
        if max(shape) > min(MAX_ASPECT * min(shape), longest) or min(shape) < shortest:
            raise DataError(
                f"expected an image at most {MAX_ASPECT} times as long as wide, and at most"
                f" {longest} pixels (at least {shortest}) a side at the model's scale: found {height} x"
                f" {width} pixels, {shape[0]} x {shape[1]} at that scale",
                fix="crop the scan, or correct its pixel size (spacing_mm in ctmr.json for images)",
            )
        return shape

    def grid_for(self, height: int, width: int, spacing_mm: Spacing) -> tuple[int, int]:
        """(height, width) of an axial slice at this scale: its own where its pixel size is within 5 %.

        Raises:
            DataError: If the pixel size of the model is not known, or the shape is unusable.
        """
        if self.pixel_mm is None:
            raise DataError(
                "expected a model that knows a pixel size: it was trained on images without one",
                fix="train on volumes, or on images with spacing_mm in ctmr.json",
            )
        rows, columns = self.shape_for(height, width, spacing_mm)
        tall, wide = (abs(mm / self.pixel_mm - 1) > NEAR for mm in spacing_mm)
        return rows if tall else height, columns if wide else width


def guessed_spacing(head: BoolArray, head_mm2: float) -> Spacing:
    """The pixel size of an image without a spacing, by the area of its head.

    The vertex is smaller than a head, and a neck too: the long side of a picture is taken for 190 to 310 mm, as heads
    fill 0.6 to 0.95 of pictures.

    Args:
        head: Where the head is (H, W).
        head_mm2: Area of a head in an axial slice.
    """
    side = math.sqrt(head_mm2 / max(1.0, float(head.sum())))
    low, high = (mm / max(head.shape) for mm in PICTURE_MM)
    side = min(max(side, low), high)
    return side, side


def training_scale(
    size: int, shapes: Sequence[tuple[int, int]], spacings: Sequence[Spacing | None]
) -> Scale:
    """The scale at which the short side of the median training image is 1.12 times `size`."""
    short_side = round(MARGIN * size)
    sides_mm = [
        min(height * spacing[0], width * spacing[1])
        for (height, width), spacing in zip(shapes, spacings, strict=True)
        if spacing is not None
    ]
    if not sides_mm or len(sides_mm) < len(spacings):
        return Scale(short_side)
    return Scale(short_side, statistics.median(sides_mm) / short_side)


def resize(array: FloatArray, height: int, width: int) -> FloatArray:
    """(H, W) or (H, W, C) -> the same at (height, width), bicubic, antialiased when shrinking.

    Bicubic interpolation overshoots at edges: clip afterwards (`Intensity.to_unit` does).
    """
    if array.shape[:2] == (height, width):
        return array
    if array.ndim == 3:
        channels = [resize(array[..., c], height, width) for c in range(array.shape[2])]
        return np.stack(channels, axis=-1)  # (height, width, C)
    image = Pillow.fromarray(np.ascontiguousarray(array, dtype=np.float32))  # mode "F"
    return np.array(image.resize((width, height), Pillow.Resampling.BICUBIC))
