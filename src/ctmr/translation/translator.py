"""A trained model at work on one scan: the only place where a generator runs outside training."""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from ctmr.imaging.image import Image, Scan
from ctmr.imaging.volume import Volume
from ctmr.models.bundle import HEAD
from ctmr.models.engines import (
    Engine,
    Network,
    Precision,
    RunnableModel,
    WantedPrecision,
    run_batch,
)
from ctmr.models.exported import open_model
from ctmr.models.quality import (
    MEASURES,
    Measure,
    Quality,
    describe,
    difference,
    judge,
)
from ctmr.results import Correlation
from ctmr.system.parallel import one_ahead
from ctmr.translation.preprocessing import NetworkInput, Preprocessor
from ctmr.translation.uncertainty import Maps, QualityLevel, Uncertainty
from ctmr.types import DIRECTION_TO, OTHER, Direction, FloatArray, Modality

BATCH = 8  # slices of a volume at a time: memory does not grow with their number
WIDE_MM = 3.0  # axial pixels wider than this come from a reformat

Result = TypeVar("Result", covariant=True)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Translation(Generic[Result]):
    """What came of one scan.

    Attributes:
        scan: The translated scan, on the grid of the source; or what else was made of its slices.
        quality: What can be said of it without the truth.
        about: What the sidecar says of the way there and back: units, ranges, pixel sizes, share clipped.
        centre: The voxel (I, J, K) in the middle of the head in a volume, on the grid of `upright()`; None for an image.
        maps: With quality `full`, `cycle_error` and `disagreement` at each pixel of the source, as shares of the range.
    """

    scan: Result
    quality: Quality
    about: dict[str, Any]
    centre: tuple[int, int, int] | None = None
    maps: Mapping[Measure, FloatArray] = field(default_factory=dict)


class Translator:
    """Translates scans in both directions with one model; every setting comes from the model.

    Attributes:
        model: Networks and `model.json`.
        preprocessor: Prepares scans for the networks.
        engine: What runs the networks; `openvino` and `onnx` do on the CPU.
        precision: Of their multiplications.
        watch: Called with slices done and slices to do while a scan is translated.
    """

    def __init__(
        self, model: RunnableModel, *, engine: Engine = "torch", precision: Precision = "float32"
    ) -> None:
        self.model = model
        self.preprocessor = Preprocessor(model.card)
        self.engine, self.precision = engine, precision
        self.watch: Callable[[int, int], None] | None = None
        self._networks: dict[Direction, Future[Network]] = {}

    def __repr__(self) -> str:
        card = self.model.card
        return f"Translator({card.network.generator}, {card.scale}, sha256 {card.sha256[:16]})"

    @property
    def about(self) -> dict[str, str]:
        """What else than a scan a translation follows from."""
        sha256 = self.model.card.sha256
        return {"sha256": sha256, "engine": self.engine, "precision": self.precision}

    def _run(self, direction: Direction, images: FloatArray) -> FloatArray:
        """Translate images (N, h, w, C) in [-1, 1]; a generator is handed to the engine when it is first needed."""
        if direction not in self._networks:
            made = Future[Network]()
            made.set_result(self.model.network(direction, self.engine, self.precision))
            self._networks[direction] = made
        return run_batch(self._networks[direction].result(), images)

    def make_ready(self, to: Modality, quality: QualityLevel) -> None:
        """Let ONNX Runtime read the graphs that will be used in a thread, while the first scan is read."""
        if self.engine != "onnx" or self._networks:
            return
        ways = [DIRECTION_TO[to], *([DIRECTION_TO[OTHER[to]]] if quality != "none" else [])]
        thread = ThreadPoolExecutor(1)
        for way in ways:
            network = thread.submit(self.model.network, way, self.engine, self.precision)
            self._networks[way] = network
        thread.shutdown(wait=False)

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
    ) -> Translation[Scan]:
        """Translate a scan and judge the result.

        Args:
            scan: As for `translate`.
            to: The modality wanted.
            quality: What else the networks are run for. `fast`: an image, or every eighth slice of a volume, is translated
                back. `full`: all is, and the mirrored scan is translated too; each gives a map.
            anyway: Translate what looks like another modality too; the result says so.
        """
        made = self.prepared(scan, to, anyway=anyway)
        return self.translation_of(made, quality, made.whole)

    def prepared(self, scan: Scan, to: Modality, *, anyway: bool = False) -> NetworkInput:
        """A scan as the networks see it; see `translation`, of which it is the first half."""
        made = self.preprocessor.prepare(scan, OTHER[to], anyway=anyway)
        _warn_of_wide_pixels(made)
        return made

    def translation_of(
        self,
        made: NetworkInput,
        quality: QualityLevel,
        gather: Callable[[Iterator[FloatArray]], Result],
    ) -> Translation[Result]:
        """Translate what is prepared and judge the result.

        Args:
            made: The scan.
            quality: See `translation`.
            gather: Makes the result of its slices (`NetworkInput.planes`).
        """
        to = made.modality
        uncertainty = Uncertainty(made, quality)

        def prepared(start: int) -> tuple[range, FloatArray]:
            places = range(start, min(start + BATCH, len(made.slices)))
            unit = made.batch(places)
            uncertainty.describe(places, unit)
            return places, unit

        def translated() -> Iterator[FloatArray]:
            for places, unit in one_ahead(prepared, range(0, len(made.slices), BATCH)):
                images = self._translated(DIRECTION_TO[to], unit)  # (N, h, w, C)
                chosen = [k for k in places if uncertainty.is_cycled(k)]
                if chosen:
                    within = [k - places.start for k in chosen]
                    errors = self._errors(unit[within], images[within], to, quality)
                    uncertainty.add(chosen, unit[within], errors)
                yield images
                if self.watch is not None:
                    self.watch(places.stop, len(made.slices))

        result = gather(made.planes(translated()))
        usual = self.model.card.training.get(OTHER[to])
        return Translation(
            scan=result,
            quality=judge(uncertainty.described, usual, uncertainty.means()),
            about=made.about(),
            centre=None if made.head is None else made.head.centre,
            maps=uncertainty.maps(),
        )

    def check(self, scan: Scan, to: Modality, *, anyway: bool = False) -> Quality:
        """Judge a scan, and raise what `translation` would raise of it, without running a network."""
        made = self.preprocessor.prepare(scan, OTHER[to], anyway=anyway)
        described = [describe(made.window(made.batch([k])[0])) for k in made.kept]
        return judge(described, self.model.card.training.get(OTHER[to]), {})

    def _errors(
        self, unit: FloatArray, translated: FloatArray, to: Modality, level: QualityLevel
    ) -> Maps:
        """The cycle error of a batch (N, h, w, C) and, with `full`, the disagreement, each (N, h, w) as a share."""
        there, back = DIRECTION_TO[to], DIRECTION_TO[OTHER[to]]
        found: Maps = {"cycle_error": difference(self._run(back, translated), unit)}
        if level == "full":
            plain = self._run(there, unit) if self.model.card.mirror else translated
            found["disagreement"] = difference(self._mirrored(there, unit), plain)
        return found

    def _translated(self, direction: Direction, unit: FloatArray) -> FloatArray:
        """Translate images (N, h, w, C) in [-1, 1] as the model's card says: together with their mirror images, or alone."""
        if not self.model.card.mirror:
            return self._run(direction, unit)
        both = self._run(direction, np.concatenate([unit, unit[:, :, ::-1]]))
        return _mean(both[: len(unit)], both[len(unit) :, :, ::-1])

    def _mirrored(self, direction: Direction, images: FloatArray) -> FloatArray:
        """Translate images (N, h, w, C) mirrored, and mirror the result back."""
        return self._run(direction, images[:, :, ::-1])[:, :, ::-1]

    def correlations(self, to: Modality) -> dict[Measure, Correlation | None]:
        """How well each measure of uncertainty ranks true errors, where that was measured for the model."""
        measured = (self.model.card.correlations or {}).get(DIRECTION_TO[to], {})
        return {measure: measured.get(measure) for measure in MEASURES}


def _mean(first: FloatArray, second: FloatArray) -> FloatArray:
    mean: FloatArray = (first + second) * np.float32(0.5)
    return mean


def load_model(
    path: Path | str = HEAD,
    *,
    engine: Engine | None = None,
    precision: WantedPrecision = "auto",
) -> Translator:
    """The translator of a run folder, its `model/` folder, an exported folder, or a model that comes with ctmr.

    Args:
        path: The folder, or the name of the model; by default the model `head`, which comes with ctmr.
        engine: What runs the networks; None is the fastest that is installed.
        precision: `auto` is bfloat16 where the hardware multiplies it fast, else float32.

    Raises:
        CheckpointError: If there is no model, or it is damaged or of another version.
        UsageError: If the engine is not installed, or does not know the precision.
    """
    model, chosen, fitting = open_model(Path(path), engine, precision)
    return Translator(model, engine=chosen, precision=fitting)


def _warn_of_wide_pixels(made: NetworkInput) -> None:
    widest = 0.0 if made.head is None else max(made.head.volume.spacing_mm[:2])
    if widest > WIDE_MM:
        logger.warning(
            "an axial pixel of %.3g mm: the scan was not taken axially, or is coarse, and its"
            " translation will be poor",
            widest,
        )
