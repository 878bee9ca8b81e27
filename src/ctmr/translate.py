"""A trained model at work on one scan: the only place where a generator runs outside training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ctmr.cyclegan import Direction, Modality
from ctmr.engine import run_generator
from ctmr.errors import DataError
from ctmr.intensity import FloatArray
from ctmr.model import NOTICE, Model, read_model
from ctmr.pixels import luma
from ctmr.quality import Quality, judge
from ctmr.scale import resize
from ctmr.scan import Encoding, Image

DIRECTION_TO: dict[Modality, Direction] = {"mr": "ct-to-mr", "ct": "mr-to-ct"}
OTHER: dict[Modality, Modality] = {"mr": "ct", "ct": "mr"}


class Translator:
    """Translates scans in both directions with one model; every setting comes from the model.

    Attributes:
        model: Networks and `model.json`.
        device: Where it runs: a GPU if there is one.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._generators = {d: g.to(self.device) for d, g in model.generators.items()}
        self._scale, self._intensities = model.card.scale, model.card.intensities

    def __repr__(self) -> str:
        card = self.model.card
        return f"Translator({card.network.generator}, {card.scale}, sha256 {card.sha256[:16]})"

    def translate(self, scan: Image, to: Modality) -> Image:
        """Translate an image; the result has its size, its spacing and, where the target has it, its depth.

        Args:
            scan: A CT if `to` is `"mr"`, an MR if it is `"ct"`; see `read_scan`.
            to: The modality wanted.

        Raises:
            DataError: If the model knows no range for such an image, or its shape is unusable.
        """
        return self.translate_with_quality(scan, to, cycle=False)[0]

    def translate_with_quality(
        self, scan: Image, to: Modality, *, cycle: bool
    ) -> tuple[Image, Quality]:
        """Translate an image and judge the result; `cycle` also translates it back to see what is lost."""
        unit = self.to_unit(scan, OTHER[to])  # (h, w, C)
        translated = run_generator(self._generators[DIRECTION_TO[to]], unit)
        error = None
        if cycle:
            back = run_generator(self._generators[DIRECTION_TO[OTHER[to]]], translated)
            error = float(np.abs(back - unit).mean() / 2)
        quality = judge(unit, self.model.card.training[OTHER[to]], error)
        return self._from_unit(translated, scan, to), quality

    def to_unit(self, scan: Image, modality: Modality) -> FloatArray:
        """The scan (h, w, C) in [-1, 1] as the networks see it: the model's scale, channels and range.

        Raises:
            DataError: If the model knows no range for such an image, or its shape is unusable.
        """
        intensity = self._intensities[modality].get(scan.encoding)
        if intensity is None:
            known = " or ".join(self._intensities[modality])
            raise DataError(
                f"expected {known} values, as the {modality.upper()} images the model was trained"
                f" on: found {scan.encoding}, whose range the model does not know",
                fix="convert the image"
                + (", or say its HU in a ctmr.json (docs/data.md)" if "HU" in known else ""),
            )
        array, channels = scan.array, self.model.card.data.channels
        if channels == 1 and array.ndim == 3:
            array = luma(array)
        height, width = array.shape[:2]
        shape = self._scale.shape_for(height, width, scan.spacing_mm)
        unit = intensity.to_unit(resize(array, *shape))
        if unit.ndim == 2:
            unit = np.repeat(unit[..., None], channels, axis=-1)
        return unit  # (h, w, C)

    def target_encoding(self, scan: Image, to: Modality) -> Encoding:
        """How the translated image is stored: in HU where the model knows them, else at the scan's depth if it can."""
        known = self._intensities[to]
        if "HU" in known:
            return "HU"
        same: Encoding = "8-bit" if scan.depth == 8 else "16-bit"
        return same if same in known else next(iter(known))

    def writes_hu(self, to: Modality) -> bool:
        """Whether translated images of that modality are in HU."""
        return "HU" in self._intensities[to]

    def writes_8_bit(self, to: Modality) -> bool:
        """Whether an 8-bit image is translated to an 8-bit image of that modality."""
        return "HU" not in self._intensities[to] and "8-bit" in self._intensities[to]

    def _from_unit(self, unit: FloatArray, scan: Image, to: Modality) -> Image:
        """The translated image (h, w, C) in [-1, 1] on the scan's own grid, in the target's values."""
        encoding = self.target_encoding(scan, to)
        intensity = self._intensities[to][encoding]
        array = intensity.from_unit(unit[..., 0] if unit.shape[-1] == 1 else unit)
        if array.ndim == 3 and (encoding == "HU" or scan.array.ndim == 2):
            array = luma(array)
        array = np.clip(resize(array, *scan.array.shape[:2]), intensity.low, intensity.high)
        if array.ndim == 2 and scan.array.ndim == 3 and encoding != "HU":
            array = np.repeat(array[..., None], 3, axis=-1)
        depth: Literal[8, 16] = 8 if encoding == "8-bit" else 16
        return replace(scan, array=array, unit=intensity.unit, depth=depth)

    def sidecar(
        self, image: Image, to: Modality, quality: Quality, seconds: float
    ) -> dict[str, Any]:
        """What the JSON beside an output says."""
        encoding = self.target_encoding(image, to)
        intensity = self._intensities[to][encoding]
        return {
            "notice": NOTICE,
            "model_sha256": self.model.card.sha256,
            "direction": DIRECTION_TO[to],
            "unit": intensity.unit,
            "range": [intensity.low, intensity.high],
            "scale": asdict(self._scale),
            "precision": "float32",
            "seconds": round(seconds, 4),
            "quality": quality.as_json(),
        }


def load_model(path: Path | str) -> Translator:
    """The translator of a run folder, its `model/` folder, or an exported folder.

    Raises:
        CheckpointError: If there is no model, or it is damaged or of another version.
    """
    return Translator(read_model(Path(path)))
