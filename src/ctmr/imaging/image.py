"""One image with its unit and spacing."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ctmr.imaging.volume import Volume
from ctmr.types import Depth, Encoding, FloatArray, Spacing

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


Scan = Image | Volume


def luma(rgb: FloatArray) -> FloatArray:
    """(H, W, 3) -> (H, W): ITU-R BT.601 luma, exact where R = G = B."""
    red, green, blue = (rgb[..., c].astype(np.float64) for c in range(3))
    return ((299 * red + 587 * green + 114 * blue) / 1000).astype(np.float32)
