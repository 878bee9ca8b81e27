"""What a page needs to show a scan: its grid, letters, windows, values; and slices as PNG for a page without WebGL."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import Volume, canonical
from ctmr.types import NAMES, FloatArray, Matrix, Modality

Values = NDArray[np.uint16]
Plane = str
PLANES: dict[Plane, tuple[int, int, int]] = {  # axes across, down, through
    "axial": (0, 1, 2),
    "coronal": (0, 2, 1),
    "sagittal": (1, 2, 0),
}
PICTURE = "image"  # the one plane of a picture
SAMPLES = 96  # along each axis, at least, by which percentiles are found
PERCENTILES = (0.5, 99.8)  # black and white of what has no HU
LEVELS = 65535
OBLIQUE = 0.35  # a share of a direction from which its letter is shown: 20 degrees


class Shown:
    """A scan as the page shows it: radiological, right of the patient at the left of the screen, front and top above.

    Attributes:
        about: What the page is told of it; a value is `low + step * stored`.
    """

    def __init__(self, scan: Scan, modality: Modality, *, unit: str | None = None) -> None:
        hu = scan.encoding == "HU"
        grey = np.rint(scan.grey) if hu else scan.grey  # HU are written as whole numbers
        low, step = _scale(grey)
        self._scan = scan
        self.about: dict[str, Any] = {
            "modality": NAMES[modality],
            "unit": unit or ("HU" if hu else "grey" if isinstance(scan, Image) else "MR units"),
            "hu": hu and unit is None,
            "low": low,
            "step": step,
            "window": _window(grey),
            "range": [float(grey.min()), float(grey.max())],
        }

    @property
    def values(self) -> Values:
        """(I, J, K) to the patient's right, front and top, or (H, W) of a picture: stored values in 0 to 65535."""
        upright = canonical(self._scan) if isinstance(self._scan, Volume) else self._scan
        grey = np.rint(upright.grey) if upright.encoding == "HU" else upright.grey
        stored: Values = np.rint((grey - self.about["low"]) / self.about["step"]).astype(np.uint16)
        return stored

    def draw(self, folder: Path, name: str) -> None:
        """Write each slice of each plane as `NAME-PLANE-0001.png`, as the screen has it."""
        values = self.values
        if values.ndim == 2:
            (folder / f"{name}-{PICTURE}-0001.png").write_bytes(_png(values))
            return
        for plane, (_, _, through) in PLANES.items():
            for n in range(values.shape[through]):
                picture = _png(slice_of(values, plane, n))
                (folder / f"{name}-{plane}-{n + 1:04}.png").write_bytes(picture)


def slice_of(values: Values, plane: Plane, n: int) -> Values:
    """The n-th slice (rows, columns) of a plane of (I, J, K): the top of the screen first, the patient's right at the left.

    A sagittal slice has the front of the patient at the left.
    """
    across, down, through = PLANES[plane]
    return np.flip(np.take(values, n, through).transpose(_turned(across, down)), (0, 1))


def _turned(across: int, down: int) -> tuple[int, int]:
    return (1, 0) if across < down else (0, 1)


def grid_of(scan: Scan) -> dict[str, Any]:
    """Size, spacing, matrix and letters of a scan as it is shown; of a picture no letters, as nobody knows its sides."""
    if isinstance(scan, Image):
        height, width = scan.grey.shape
        rows, columns = scan.spacing_mm or (None, None)
        return {"shape": [width, height], "spacing": [columns, rows], "letters": None}
    upright = canonical(scan)
    return {
        "shape": list(upright.array.shape),
        "spacing": [round(mm, 4) for mm in upright.spacing_mm],
        "own_shape": list(scan.array.shape),
        "own_axes": "".join(scan.axes),
        "affine": upright.affine.tolist(),
        "letters": letters_of(upright.affine),
    }


def letters_of(affine: Matrix) -> dict[Plane, list[str]]:
    """What stands at the left, right, top and bottom of each plane, by the matrix of a canonical volume.

    An axis that lies between two has the letters of both, that of the nearer first.
    """
    letters: dict[Plane, list[str]] = {}
    for plane, (across, down, _) in PLANES.items():
        right, below = -affine[:3, across], -affine[:3, down]  # of the screen
        letters[plane] = [_letter(-right), _letter(right), _letter(-below), _letter(below)]
    return letters


def _letter(direction: NDArray[np.float64]) -> str:
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")
    return "".join("RAS"[k] if unit[k] > 0 else "LPI"[k] for k in order if abs(unit[k]) >= OBLIQUE)


def _scale(grey: FloatArray) -> tuple[float, float]:
    """The lowest value and the step that brings all to 0 to 65535; whole numbers stay exact where they fit."""
    low, high = float(grey.min()), float(grey.max())
    if high - low <= LEVELS and bool((grey == np.rint(grey)).all()):
        return low, 1.0
    return low, max((high - low) / LEVELS, 1e-9)


def _window(grey: FloatArray) -> list[float]:
    """Values to show as black and white where nothing else is asked for."""
    some = grey[tuple(slice(None, None, max(1, n // SAMPLES)) for n in grey.shape)]
    low, high = (round(float(value), 4) for value in np.percentile(some, PERCENTILES))
    return [low, max(high, low + 1e-4)]


def _png(values: Values) -> bytes:
    """A PNG whose red is the high byte and whose green is the low byte of each value."""
    pixels = np.zeros((*values.shape, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = values >> 8, values & 255
    content = io.BytesIO()
    Picture.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()
