"""One image with its unit and spacing."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctmr.imaging.volume import Value, Volume
from ctmr.types import Depth, Encoding, FloatArray, Modality, Spacing

Unit = Literal["HU", "grey"]


@dataclass(frozen=True, eq=False)
class Image:
    """One image as the file has it, upright.

    Attributes:
        array: (H, W) or (H, W, 3), in stored values, or in HU if `unit` is `"HU"`.
        unit: `"HU"` where the folder's `ctmr.json` says so.
        depth: Bits a channel in the file.
        spacing_mm: Distance between rows and between columns, where `ctmr.json` says so.
        transparent: Whether transparent pixels were put on black.
    """

    array: FloatArray
    unit: Unit
    depth: Depth
    spacing_mm: Spacing | None = None
    transparent: bool = False

    @property
    def encoding(self) -> Encoding:
        """What decides the map from its values to [-1, 1]."""
        if self.unit == "HU":
            return "HU"
        return "8-bit" if self.depth == 8 else "16-bit"

    @property
    def grey(self) -> FloatArray:
        """(H, W), the mean of colours."""
        return self.array if self.array.ndim == 2 else self.array.mean(axis=-1, dtype=np.float32)

    def upright(self) -> "Image":
        """The image itself; see `Volume.upright`."""
        return self

    def like(self, array: FloatArray) -> FloatArray:
        """The array itself; see `Volume.like`."""
        return array

    def axial(self, array: NDArray[Value]) -> NDArray[Value]:
        """An array on the image's grid as one slice, (1, H, W, ...)."""
        return array[None]

    def from_axial(self, slices: FloatArray) -> FloatArray:
        """The inverse of `axial`."""
        first: FloatArray = slices[0]
        return first

    def with_values(self, array: FloatArray, encoding: Encoding, _: Modality) -> "Image":
        """The image with other values, which fit 8 bits only if the encoding says so."""
        depth: Depth = 8 if encoding == "8-bit" else 16
        unit: Unit = "HU" if encoding == "HU" else "grey"
        return replace(self, array=array, unit=unit, depth=depth)


Scan = Image | Volume


def luma(rgb: FloatArray) -> FloatArray:
    """(..., 3) -> (...): ITU-R BT.601 luma, exact where R = G = B."""
    red, green, blue = (rgb[..., c].astype(np.float64) for c in range(3))
    return ((299 * red + 587 * green + 114 * blue) / 1000).astype(np.float32)
