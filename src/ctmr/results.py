"""What the files of results hold: they are written by packages above, and drawn by `reporting`."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ctmr.types import Direction, Level

# Keys of the `metrics.json` of 0.1.0 that have other names now.
RENAMED = {
    "naive": "baselines",
    "answers": "others",
    "doubt": "uncertainty",
    "without_truth": "no_reference",
}


@dataclass(frozen=True)
class Summary:
    """A figure over patients.

    Attributes:
        mean: Mean over patients.
        sd: Standard deviation over patients (n - 1), 0 for one patient.
        ci95: 95 % interval of the mean, percentile bootstrap over patients.
    """

    mean: float
    sd: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Correlation:
    """How alike two figures rank the same images.

    Attributes:
        spearman: Spearman's rank correlation, in [-1, 1]; equal values share their mean rank.
        ci95: 95 % interval, percentile bootstrap over patients.
        n: Number of images.
    """

    spearman: float
    ci95: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Distances:
    """How far translated images are from real ones, and real ones of other patients from them, in the same measure."""

    frechet: float
    frechet_real: float
    """What a perfect translation would have."""
    kernel: float
    kernel_real: float
    """Likewise."""


@dataclass(frozen=True)
class Definition:
    """How a figure is measured."""

    name: str
    unit: str
    mask: str
    range: str
    better: Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Share:
    """How often something is so, with Wilson's 95 % interval; None if there was nothing to count."""

    share: float | None
    n: int
    ci95: tuple[float, float] | None


@dataclass(frozen=True)
class LesionShares:
    """How many lesions survive, and in how many slices something is invented."""

    survives: Share
    invented: Share


@dataclass(frozen=True)
class LesionFigures:
    """The shares of one kind of lesion, beside those of heads without lesions and of the truth."""

    survives: Share
    invented: Share
    detectable: Share
    healthy: LesionShares
    truth: LesionShares


@dataclass(frozen=True)
class LesionDirection:
    """What becomes of lesions in one direction.

    Attributes:
        unit: Of the images.
        limit: Error from which something counts as invented.
        lesions: By kind.
    """

    unit: str
    limit: float
    lesions: dict[str, LesionFigures]


@dataclass(frozen=True)
class Lesions:
    """What becomes of lesions of synthetic heads (`ctmr help lesions`)."""

    heads: int
    seed: int
    sequence: str
    what: str
    directions: dict[Direction, LesionDirection]


Table = dict[str, Summary]  # by the key of the figure


class DirectionMetrics(BaseModel):
    """What is measured of one direction; in the file the model's figures stand among the other keys."""

    unit: str | None = None
    """Of the truth; None without one."""
    figures: Table
    others: dict[str, Table] = {}
    """Of translations by other means, by name."""
    baselines: dict[str, Table] = {}
    difference: Table = {}
    """MAE of each of these less the model's, patient by patient: an interval above zero says that the model is better."""
    no_reference: Table = {}
    """Figures without the truth."""
    distances: Distances | None = None
    uncertainty: dict[str, Correlation | None] = {}
    """Of each measure of uncertainty with the MAE; None where nothing can be ranked."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "figures" in content:
            return content
        content = {RENAMED.get(key, key): value for key, value in content.items()}
        known = {key: content.pop(key) for key in cls.model_fields if key in content}
        return {**known, "figures": content}

    @model_serializer(mode="wrap")
    def _spread(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = dump(self)
        unit = {"unit": content.pop("unit")} if "unit" in content else {}
        return {**unit, **content.pop("figures"), **content}


@dataclass(frozen=True)
class Evaluated:
    """The model that is measured, and what ran it."""

    sha256: str
    engine: str
    precision: str


class Metrics(BaseModel):
    """What `metrics.json` says (`ctmr help measure-with-pairs`)."""

    model: Evaluated | None = None
    n: int
    """Scans."""
    patients: int
    """Among the scans."""
    unit: str
    """`HU`, `grey`, `MR`, or two with a bar between where the directions differ; empty without the truth."""
    protocol: str
    """How it was measured."""
    notice: str
    """Research use only."""
    figures: dict[Direction, dict[str, Definition]]
    """What each figure is, by its key."""
    directions: dict[Direction, DirectionMetrics]
    lesions: Lesions | None = None
    """Where the scans are synthetic heads."""

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return self.model_dump(exclude_unset=True)


class EvaluationLine(BaseModel):
    """A line of `evaluations.jsonl`: a model in training, as it was at a step."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, dict[str, float]]

    step: int
    by: str | None = None
    """The figure that the score is made of; only like is compared with like."""
    score: float
    """The higher, the better."""

    @property
    def directions(self) -> dict[str, dict[str, float]]:
        """Direction -> figure -> its mean; in the file they stand among the other keys."""
        return self.__pydantic_extra__

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return self.model_dump(exclude_unset=True)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a data folder, or worth knowing.

    Attributes:
        kind: A word for it, as `wrong_modality`.
        level: `error`: results would be wrong or no training starts; `warning`: look at it; `note`: good to know.
        files: `folder/name` of each, or `folder`.
        why: What was seen, with numbers.
    """

    kind: str
    level: Level
    files: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Cleaned:
    """Scans of a cleaned copy: those kept in each folder, those of them that changed sides, and those left out."""

    kept: dict[str, int]
    moved: int
    left_out: int


class AuditReport(BaseModel):
    """What `audit.json` says (`ctmr help clean-a-data-set`)."""

    errors: int
    warnings: int
    notes: int
    scans: dict[str, int]
    """By folder."""
    findings: list[Finding]
    cleaned: Cleaned | None = None

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return self.model_dump(mode="json", exclude_unset=True)


class JudgedTranslation(BaseModel):
    """What a sidecar says of the quality of a translation (`ctmr help quality-and-uncertainty`)."""

    level: Literal["ok", "warn", "refuse", "unknown"]
    why: tuple[str, ...]
    cycle_error: float | None
    disagreement: float | None
    input_distance: float | None
    features: dict[str, float]
    correlations: dict[str, Correlation | None]
    """How well each measure ranks true errors, where that was measured for the model."""
    maps: tuple[str, ...]
    """Measures with a map."""


class Sidecar(BaseModel):
    """What the JSON beside a translation says."""

    notice: str
    model_sha256: str
    direction: Direction
    unit: str
    range: tuple[float, float]
    """Of the translation, in its unit."""
    guessed_mm: float | None = None
    """Pixel size of an image that says none, by the size of its head."""
    source_range: tuple[float, float] | None = None
    """Of a volume, as all up to `resampled`: the source's values that the network tells apart."""
    source_clipped_share: float | None = None
    slices: int | None = None
    slice_pixels: tuple[int, int] | None = None
    network_pixels: tuple[int, int] | None = None
    resampled: bool | None = None
    scale: dict[str, int | float | None]
    engine: str
    precision: str
    seconds: float
    quality: JudgedTranslation
    geometry: str | None = None
    """The option of that name, as those that follow, where it made a difference."""
    like: bool | None = None
    irregular: bool | None = None
    anyway: bool | None = None
    series: tuple[str, ...] | None = None
    ct_values: str | None = None
    request_sha256: str
    """Of all that the translation follows from."""
    result: str
    """Name of the translation; the other outputs are maps."""
    outputs: dict[str, str | None]
    """Output -> SHA-256."""
    notes: tuple[str, ...] | None = None
    """What is irregular in a DICOM series."""

    def as_json(self) -> dict[str, Any]:
        """As the file has it."""
        return self.model_dump(mode="json", exclude_unset=True)
