"""A scan to what the networks of a model see, and back: its scale, its channels and its maps of grey values."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ctmr.errors import DataError
from ctmr.imaging.image import Image, Scan, luma
from ctmr.imaging.intensity import MR_UNITS, Intensity
from ctmr.imaging.modality import as_modality
from ctmr.imaging.resampling import resize
from ctmr.imaging.slices import HeadSlices, head_slices
from ctmr.imaging.volume import Volume, axial_slices, canonical
from ctmr.models.card import Card
from ctmr.types import BoolArray, Encoding, FloatArray, Modality


class Conversion:
    """The way of scans to [-1, 1] and back by what the card of a model says."""

    def __init__(self, card: Card) -> None:
        self._scale, self._data, self._intensities = card.scale, card.data, card.intensities

    def image_to_unit(self, scan: Image, modality: Modality) -> FloatArray:
        """The image (h, w, C) in [-1, 1] as the networks see it: the model's scale, channels and range.

        Raises:
            DataError: If the model knows no range for such an image, or its shape is unusable.
        """
        intensity = self._incoming(scan.encoding, modality)
        array, channels = scan.array, self._data.channels
        if channels == 1 and array.ndim == 3:
            array = luma(array)
        height, width = array.shape[:2]
        shape = self._scale.shape_for(height, width, scan.spacing_mm)
        unit = intensity.to_unit(resize(array, *shape))
        if unit.ndim == 2:
            unit = np.repeat(unit[..., None], channels, axis=-1)
        return unit  # (h, w, C)

    def image_from_unit(self, unit: FloatArray, scan: Image, to: Modality) -> Image:
        """The image of a translation (h, w, C) on the grid of the scan, grey where the scan is or where HU are."""
        encoding = self.target_encoding(scan, to)
        intensity = self.target(encoding, to)
        array = intensity.from_unit(unit[..., 0] if unit.shape[-1] == 1 else unit)
        if array.ndim == 3 and (encoding == "HU" or scan.array.ndim == 2):
            array = luma(array)
        array = np.clip(resize(array, *scan.array.shape[:2]), intensity.low, intensity.high)
        if array.ndim == 2 and scan.array.ndim == 3 and encoding != "HU":
            array = np.repeat(array[..., None], 3, axis=-1)
        depth: Literal[8, 16] = 8 if encoding == "8-bit" else 16
        return replace(scan, array=array, unit="HU" if encoding == "HU" else "grey", depth=depth)

    def head_of_volume(
        self, scan: Volume, modality: Modality, anyway: bool
    ) -> tuple[HeadSlices, Intensity]:
        """Where the head is in a volume, and the map of its values to [-1, 1].

        Raises:
            DataError: If there is no head in it, or the model knows no range or pixel size for it.
            SafetyError: If it is of another modality, unless `anyway`.
        """
        checked = replace(scan, modality=modality) if anyway else as_modality(scan, modality)
        intensity = self._incoming(checked.encoding, modality)
        found = head_slices(checked, modality, self._scale, self._data.size)
        return found, intensity.fitted(found.head.values)

    def slices_to_unit(
        self, batch: FloatArray, intensity: Intensity, grid: tuple[int, int]
    ) -> FloatArray:
        """Slices (N, rows, columns) in the scan's unit -> (N, h, w, C) in [-1, 1] at the model's pixel size."""
        unit = np.stack([intensity.to_unit(resize(plane, *grid)) for plane in batch])[..., None]
        return np.repeat(unit, self._data.channels, axis=-1)

    def target_encoding(self, scan: Scan, to: Modality) -> Encoding:
        """How the translation is stored: in HU or MR units where the model knows them, else at the scan's depth."""
        known = self._intensities[to]
        if "HU" in known:
            return "HU"
        if isinstance(scan, Volume):
            return "MR"
        same: Encoding = "8-bit" if scan.depth == 8 else "16-bit"
        return same if same in known else next(iter(known))

    def target(self, encoding: Encoding, to: Modality) -> Intensity:
        """The map from [-1, 1] of a scan that goes out; a model of MR images has none of its own for volumes."""
        return self._intensities[to].get(encoding, MR_UNITS)

    def writes_hu(self, to: Modality) -> bool:
        """Whether translated scans of that modality are in HU."""
        return "HU" in self._intensities[to]

    def writes_8_bit(self, to: Modality) -> bool:
        """Whether an 8-bit image is translated to an 8-bit image of that modality."""
        return "8-bit" in self._intensities[to] and not self.writes_hu(to)

    def about(self, scan: Scan, to: Modality) -> dict[str, Any]:
        """Unit and range of a translation, as the sidecar says them."""
        intensity = self.target(self.target_encoding(scan, to), to)
        unit = "arbitrary MR units" if intensity.unit == "MR" else intensity.unit
        return {"unit": unit, "range": [intensity.low, intensity.high]}

    def own_slices(self, scan: Scan, modality: Modality, mask: BoolArray) -> FloatArray:
        """The axial slices (K, H, W) in [-1, 1] on the scan's own grid, for figures that need no truth.

        Args:
            scan: An image, which is one slice, colours made grey; or a volume. Real or translated, an MR volume is mapped
                by the percentiles of its head, as it has no unit.
            modality: Of the scan.
            mask: Head mask on the scan's grid.
        """
        array = luma(scan.array) if scan.array.ndim == 3 and isinstance(scan, Image) else scan.array
        intensity = self.target(scan.encoding, modality).fitted(array[mask])
        return slices_on(scan, intensity.to_unit(array))

    def _incoming(self, encoding: Encoding, modality: Modality) -> Intensity:
        """The map to [-1, 1] of a scan that comes in."""
        intensity = self._intensities[modality].get(encoding)
        if intensity is None:
            known = " or ".join(self._intensities[modality])
            raise DataError(
                f"expected {known} values, as the {modality.upper()} the model was trained"
                f" on: found {encoding}, whose range the model does not know",
                fix="convert the scan"
                + (", or say its HU in a ctmr.json (docs/data.md)" if "HU" in known else ""),
            )
        return intensity


def slices_on(scan: Scan, array: FloatArray) -> FloatArray:
    """The axial slices (K, H, W) of an array on a scan's grid; an image is one."""
    if isinstance(scan, Image):
        return array[None]
    return axial_slices(canonical(replace(scan, array=array)).array)


def mask_on(scan: Scan, mask: BoolArray) -> BoolArray:
    """The same of a mask."""
    return slices_on(scan, mask.astype(np.float32)) > 0
