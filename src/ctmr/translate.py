"""A trained model at work on one scan: the only place where a generator runs outside training."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch

from ctmr.cyclegan import Direction
from ctmr.engine import run_batch, run_generator
from ctmr.errors import DataError
from ctmr.images import Image
from ctmr.intensity import MR_UNITS, Encoding, FloatArray, Intensity
from ctmr.modality import as_modality
from ctmr.model import NOTICE, Model, read_model
from ctmr.pixels import luma
from ctmr.quality import Quality, judge, judge_slices, require_claimed
from ctmr.scale import resize
from ctmr.scan import Scan
from ctmr.slices import HeadSlices, head_slices
from ctmr.volume import (
    Modality,
    Volume,
    axial_slices,
    from_axial_slices,
    like,
)

DIRECTION_TO: dict[Modality, Direction] = {"mr": "ct-to-mr", "ct": "mr-to-ct"}
OTHER: dict[Modality, Modality] = {"mr": "ct", "ct": "mr"}
WIDE_MM = 3.0  # axial pixels wider than this come from a reformat
BATCH = 8  # slices of a volume at a time: memory does not grow with their number
CYCLE_EVERY = 8  # slices of a volume that are translated back with quality "fast"

QualityLevel = Literal["fast", "full", "none"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Translation:
    """What came of one scan.

    Attributes:
        scan: The translated scan, on the grid of the source.
        quality: What can be said of it without the truth.
        about: What the sidecar says of the way there and back: units, ranges, pixel sizes, share clipped.
    """

    scan: Scan
    quality: Quality
    about: dict[str, Any]


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

    @overload
    def translate(self, scan: Image, to: Modality) -> Image: ...
    @overload
    def translate(self, scan: Volume, to: Modality) -> Volume: ...
    @overload
    def translate(self, scan: Scan, to: Modality) -> Scan: ...
    def translate(self, scan: Scan, to: Modality) -> Scan:
        """Translate an image or a volume; the result lies on the same grid.

        Args:
            scan: A CT if `to` is `"mr"`, an MR if it is `"ct"`; see `read_scan`.
            to: The modality wanted.

        Returns:
            An image of the same size and spacing and, where the target has it, depth; or a volume with the same shape
            and affine, in HU or in the model's MR units.

        Raises:
            DataError: If the model knows no range for such a scan, or its shape is unusable.
            SafetyError: If it is of another modality than claimed.
        """
        return self.translation(scan, to, quality="none").scan

    def translation(
        self, scan: Scan, to: Modality, *, quality: QualityLevel, anyway: bool = False
    ) -> Translation:
        """Translate a scan and judge the result.

        Args:
            scan: As for `translate`.
            to: The modality wanted.
            quality: How much is translated back to see what is lost: a volume's every eighth slice with `fast`, all with
                `full`; an image with either.
            anyway: Translate what looks like another modality too; the result says so.
        """
        if isinstance(scan, Image):
            return self._image(scan, to, cycle=quality != "none", anyway=anyway)
        return self._volume(scan, to, quality, anyway)

    def check(self, scan: Scan, to: Modality, *, anyway: bool = False) -> None:
        """Raise what `translation` would raise of the scan, without running a network."""
        if isinstance(scan, Image):
            unit = self.to_unit(scan, OTHER[to])
            if not anyway:
                self._require_claimed(unit, to)
        else:
            self._prepared(scan, to, anyway)

    def _image(self, scan: Image, to: Modality, *, cycle: bool, anyway: bool) -> Translation:
        unit = self.to_unit(scan, OTHER[to])  # (h, w, C)
        if not anyway:
            self._require_claimed(unit, to)
        translated = run_generator(self._generators[DIRECTION_TO[to]], unit)
        error = None
        if cycle:
            back = run_generator(self._generators[DIRECTION_TO[OTHER[to]]], translated)
            error = float(np.abs(back - unit).mean() / 2)
        quality = judge(unit, self.model.card.training[OTHER[to]], error)
        result = self._from_unit(translated, scan, to)
        return Translation(result, quality, self._about(self.target_encoding(scan, to), to))

    def _require_claimed(self, unit: FloatArray, to: Modality) -> None:
        training = self.model.card.training
        require_claimed(unit, OTHER[to], {m: usual.ranges for m, usual in training.items()})

    def to_unit(self, scan: Image, modality: Modality) -> FloatArray:
        """The image (h, w, C) in [-1, 1] as the networks see it: the model's scale, channels and range.

        Raises:
            DataError: If the model knows no range for such an image, or its shape is unusable.
        """
        intensity = self._intensity(scan.encoding, modality)
        array, channels = scan.array, self.model.card.data.channels
        if channels == 1 and array.ndim == 3:
            array = luma(array)
        height, width = array.shape[:2]
        shape = self._scale.shape_for(height, width, scan.spacing_mm)
        unit = intensity.to_unit(resize(array, *shape))
        if unit.ndim == 2:
            unit = np.repeat(unit[..., None], channels, axis=-1)
        return unit  # (h, w, C)

    def _intensity(self, encoding: Encoding, modality: Modality) -> Intensity:
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

    def target_encoding(self, scan: Scan, to: Modality) -> Encoding:
        """How the translation is stored: in HU or MR units where the model knows them, else at the scan's depth."""
        known = self._intensities[to]
        if "HU" in known:
            return "HU"
        if isinstance(scan, Volume):
            return "MR"
        same: Encoding = "8-bit" if scan.depth == 8 else "16-bit"
        return same if same in known else next(iter(known))

    def _target(self, encoding: Encoding, to: Modality) -> Intensity:
        """The map from [-1, 1] of a scan that goes out; a model of MR images has none of its own for volumes."""
        return self._intensities[to].get(encoding, MR_UNITS)

    def writes_hu(self, to: Modality) -> bool:
        """Whether translated scans of that modality are in HU."""
        return "HU" in self._intensities[to]

    def writes_8_bit(self, to: Modality) -> bool:
        """Whether an 8-bit image is translated to an 8-bit image of that modality."""
        return "HU" not in self._intensities[to] and "8-bit" in self._intensities[to]

    def _from_unit(self, unit: FloatArray, scan: Image, to: Modality) -> Image:
        """The translated image (h, w, C) in [-1, 1] on the scan's own grid, in the target's values."""
        encoding = self.target_encoding(scan, to)
        intensity = self._target(encoding, to)
        array = intensity.from_unit(unit[..., 0] if unit.shape[-1] == 1 else unit)
        if array.ndim == 3 and (encoding == "HU" or scan.array.ndim == 2):
            array = luma(array)
        array = np.clip(resize(array, *scan.array.shape[:2]), intensity.low, intensity.high)
        if array.ndim == 2 and scan.array.ndim == 3 and encoding != "HU":
            array = np.repeat(array[..., None], 3, axis=-1)
        depth: Literal[8, 16] = 8 if encoding == "8-bit" else 16
        return replace(scan, array=array, unit="HU" if encoding == "HU" else "grey", depth=depth)

    def _volume(self, scan: Volume, to: Modality, level: QualityLevel, anyway: bool) -> Translation:
        found, intensity = self._prepared(scan, to, anyway)
        there, back = (self._generators[DIRECTION_TO[m]] for m in (to, OTHER[to]))
        target = self._target(self.target_encoding(scan, to), to)
        slices = axial_slices(found.volume.array)  # (K, rows, columns)
        result = np.empty_like(slices)
        every = {"none": 0, "fast": CYCLE_EVERY, "full": 1}[level]
        seen, errors = [], []
        for start in range(0, len(slices), BATCH):
            unit = self._slices_to_unit(slices[start : start + BATCH], intensity, found.grid)
            translated = run_batch(there, unit)  # (N, h, w, C)
            for n, image in enumerate(translated):
                grey = resize(target.from_unit(image.mean(axis=-1)), *slices.shape[1:])
                result[start + n] = np.clip(grey, target.low, target.high)
            # Judged as in training: the window about the head of slices that show some of it.
            ours = [n for n in range(len(unit)) if start + n in found.kept]
            seen += [found.windowed(unit[n], -1.0) for n in ours]
            chosen = [n for n in ours if every and (start + n) % every == 0]
            if chosen:
                lost = np.abs(run_batch(back, translated[chosen]) - unit[chosen]) / 2
                errors += [float(found.windowed(image, 0.0).mean()) for image in lost]
        quality = judge_slices(seen, self.model.card.training[OTHER[to]], errors)
        array = like(from_axial_slices(result), scan)
        about = self._about(self.target_encoding(scan, to), to) | _volume_about(found, intensity)
        return Translation(replace(scan, array=array, modality=to), quality, about)

    def _prepared(self, scan: Volume, to: Modality, anyway: bool) -> tuple[HeadSlices, Intensity]:
        """Where the head is in the volume, and the map of its values to [-1, 1]."""
        modality = OTHER[to]
        checked = replace(scan, modality=modality) if anyway else as_modality(scan, modality)
        intensity = self._intensity(checked.encoding, modality)
        found = head_slices(checked, modality, self._scale, self.model.card.data.size)
        widest = max(found.volume.spacing_mm[:2])
        if widest > WIDE_MM:
            logger.warning(
                "an axial pixel of %.3g mm: the scan was not taken axially, or is coarse, and its"
                " translation will be poor",
                widest,
            )
        return found, intensity.fitted(found.head.values)

    def _slices_to_unit(
        self, batch: FloatArray, intensity: Intensity, grid: tuple[int, int]
    ) -> FloatArray:
        """Slices (N, rows, columns) in the scan's unit -> (N, h, w, C) in [-1, 1] at the model's pixel size."""
        unit = np.stack([intensity.to_unit(resize(plane, *grid)) for plane in batch])[..., None]
        return np.repeat(unit, self.model.card.data.channels, axis=-1)

    def _about(self, encoding: Encoding, to: Modality) -> dict[str, Any]:
        intensity = self._target(encoding, to)
        unit = "arbitrary MR units" if intensity.unit == "MR" else intensity.unit
        return {"unit": unit, "range": [intensity.low, intensity.high]}

    def sidecar(self, done: Translation, to: Modality, seconds: float) -> dict[str, Any]:
        """What the JSON beside an output says."""
        return {
            "notice": NOTICE,
            "model_sha256": self.model.card.sha256,
            "direction": DIRECTION_TO[to],
            **done.about,
            "scale": asdict(self._scale),
            "precision": "float32",
            "seconds": round(seconds, 4),
            "quality": done.quality.as_json(),
        }


def _volume_about(found: HeadSlices, intensity: Intensity) -> dict[str, Any]:
    """What the sidecar says of a volume's way to the networks."""
    columns, rows, slices = found.volume.array.shape
    return {
        "source_range": [intensity.low, intensity.high],
        "source_clipped_share": round(intensity.clipped_share(found.head.values), 6),
        "slices": slices,
        "slice_pixels": [rows, columns],
        "network_pixels": list(found.grid),
        "resampled": found.grid != (rows, columns),
    }


def load_model(path: Path | str) -> Translator:
    """The translator of a run folder, its `model/` folder, or an exported folder.

    Raises:
        CheckpointError: If there is no model, or it is damaged or of another version.
    """
    return Translator(read_model(Path(path)))
