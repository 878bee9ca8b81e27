"""The settings of a run: every field, its range, its presets and where each value comes from."""

import difflib
import math
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ctmr.errors import UsageError
from ctmr.system.yaml import parse_yaml, read_yaml
from ctmr.types import CtWindow

DOCS = "ctmr help settings lists every setting"

Steps = Annotated[int, Field(ge=1, le=100_000_000)]
Weight = Annotated[float, Field(ge=0, le=1000)]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, NaN and silent conversions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, strict=True, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """What the networks see of the scans."""

    size: int = Field(ge=32, le=2048)
    """Side in pixels of a training crop; the short side of an image is first brought to 1.12 times this."""
    channels: Literal[1, 3]
    """Channels of an image: 1 (grey) or 3 (RGB)."""
    ct_window: CtWindow
    """Map from HU to [-1, 1], where the CT states HU."""
    pixel_mm: float = Field(ge=0.1, le=10)
    """In-plane pixel size in mm to which axial slices of volumes are brought."""
    match_heights: bool
    """Whether to pair slices of volumes that lie at similar heights, in mm below the top of the head."""
    flip: bool
    """Whether to mirror training images at random."""
    patient_pattern: str | None = None
    """Regular expression whose first group, searched in a file's path, names the patient."""

    @field_validator("channels", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        """Refuse `true` and 1.0, which equal 1."""
        if type(value) is not int:
            raise ValueError("input should be 1 or 3")
        return value


GENERATOR_SIDES = {"resnet": (4, 16), "resnet34": (32, 64), "resnet50": (32, 64), "unet": (16, 16)}
"""Of each generator: of what height and width have to be multiples, and the least that they may be."""


class NetworkConfig(Section):
    """The generators and the discriminators."""

    generator: Literal["resnet", "resnet34", "resnet50", "unet"]
    """`resnet`: basic blocks at a quarter of the resolution; `resnet34`, `resnet50`: encoders to 1/32; `unet`: a U-Net."""
    blocks: int = Field(ge=1, le=64)
    """Residual blocks of `resnet` (9 in Zhu et al. 2017); `resnet34` and `resnet50` have [3, 4, 6, 3]."""
    filters: int = Field(ge=4, le=256)
    """Filters of the generator's first layer."""
    upsample: Literal["deconvolution", "nearest"]
    """How the decoder doubles the resolution."""
    skips: bool
    """Whether the decoder of `resnet34` and `resnet50` sees the encoder's features."""
    discriminator_filters: int = Field(ge=4, le=256)
    """Filters of the discriminator's first layer."""
    initialisation: Literal["normal", "uniform"]
    """`normal`: N(0, 0.02^2), as in Zhu et al. 2017; `uniform`: by each layer's inputs, PyTorch's default."""


class LossConfig(Section):
    """Weights in equation (4), and of what is not in the paper; a weight of 0 saves the work."""

    adversary: Weight = 1.0
    """Weight of L_GAN (1); 0 trains without discriminators."""
    cycle: Weight
    """Weight of L_cyc (2)."""
    identity: Weight
    """Weight of L_identity (3)."""
    structure: Weight
    """Weight of the structure term, which keeps edges where they are; not in the paper."""
    cycle_noise: float = Field(ge=0, le=1)
    """Standard deviation of the noise on a translated image before it goes back."""
    truth: Weight = 0.0
    """Weight of rendered pairs, whose translation is known; not in the paper."""
    half_real: Weight = 0.0
    """Weight of half-real pairs: a real CT and an MR rendered from it, a real MR and a CT made of it; not in the paper."""
    pairs: Weight = 1.0
    """Weight of the registered pairs of `--pairs`; not in the paper."""


class TrainConfig(Section):
    """The schedule, the optimiser and what is written on the way."""

    start: Literal["random", "bundled"] = "random"
    """Weights of a new run: drawn at random, or those of the model that comes with ctmr; `--init` goes before it."""
    steps: Steps | None = None
    """Length of the whole schedule in steps; else `epochs` decides."""
    epochs: int = Field(ge=1, le=100_000)
    """Length of the schedule in epochs, an epoch being as long as the larger folder."""
    batch_size: int = Field(ge=1, le=1024)
    """Images of each modality in one step."""
    learning_rate: float = Field(gt=0, le=1)
    """Adam's rate: constant for the first half of the schedule, then linear to zero."""
    history: int = Field(ge=0, le=10_000)
    """Earlier fakes kept for each discriminator; 0 shows it the newest only."""
    ema: float = Field(ge=0, lt=1)
    """Decay per step of the generators' moving average used to translate; 0 uses the weights themselves."""
    precision: Literal["auto", "float32", "bfloat16"]
    """`auto`: bfloat16 where the hardware multiplies it fast, else float32."""
    checkpoint_every: Steps
    """Steps between checkpoints."""
    sample_every: Steps
    """Steps between sample grids (and always at 0, 5000, 10000 and 15000)."""
    evaluate_every: Steps
    """Steps between evaluations (and always at the end), by which the best model is kept."""
    log_every: Steps
    """Steps between lines of `log.jsonl`."""
    workers: int = Field(ge=0, le=64)
    """Processes that prepare batches; 0 does it in the training process. The result does not depend on it."""
    tensorboard: bool = False
    """Whether to write TensorBoard event files too."""


class Config(Section):
    """Every setting of a run."""

    seed: int = Field(ge=0, lt=2**63)
    """All randomness is a pure function of this, the epoch and the position in it."""
    data: DataConfig
    network: NetworkConfig
    loss: LossConfig
    train: TrainConfig


PRESETS: dict[str, Config] = {
    # Li 2023 to the letter; a value the paper does not give says whose it is (docs/project/paper.md).
    "paper": Config(
        seed=0,
        data=DataConfig(
            size=256,  # not in the paper: Zhu et al. 2017
            channels=3,  # the paper's MR are RGB
            ct_window="wide",
            pixel_mm=1.0,  # not in the paper, which has no volumes: 256 mm hold a head
            match_heights=False,
            flip=True,
        ),
        network=NetworkConfig(
            generator="resnet34",
            blocks=16,  # of the other reading of "ResNet34": 2 x 16 convolutions at 1/4 resolution
            filters=64,
            upsample="deconvolution",
            skips=False,
            discriminator_filters=64,  # 70x70 PatchGAN: Isola et al. 2017
            initialisation="normal",  # not in the paper: Zhu et al. 2017
        ),
        loss=LossConfig(cycle=4.0, identity=8.0, structure=0.0, cycle_noise=0.0),
        train=TrainConfig(
            epochs=200,
            batch_size=1,
            learning_rate=0.0002,
            history=50,  # not in the paper: Shrivastava et al. 2017, as in Zhu et al. 2017
            ema=0.0,
            precision="float32",
            checkpoint_every=1000,
            sample_every=5000,
            evaluate_every=5000,
            log_every=10,
            workers=0,  # a sample costs less than a millisecond
        ),
    ),
}
# What we advise today: the model that comes with ctmr, made used to the user's scans by half-real pairs. docs/project/results.md
# has what they win, and what an adversary, cycles and structure cost beside them.
PRESETS["default"] = Config(
    seed=0,
    data=DataConfig(
        size=256,
        channels=1,  # CT and most MR are grey
        ct_window="piecewise",  # soft tissue is visible to the networks, and bone keeps its HU
        pixel_mm=1.0,  # 256 mm hold a head
        match_heights=False,  # it won nothing (docs/project/results.md)
        flip=True,
    ),
    network=NetworkConfig(
        generator="unet",  # as the model that comes with ctmr
        blocks=6,
        filters=24,
        upsample="nearest",
        skips=False,
        discriminator_filters=64,
        initialisation="uniform",  # discriminators learn several times faster than from N(0, 0.02^2)
    ),
    loss=LossConfig(
        adversary=0.0,
        cycle=0.0,
        identity=0.0,
        structure=0.0,
        cycle_noise=0.05,  # on the CT made of a real MR, so that nothing can hide in it
        half_real=1.0,
    ),
    train=PRESETS["paper"].train.model_copy(
        update={
            "start": "bundled",
            "epochs": 60,
            "learning_rate": 0.0005,
            "ema": 0.9995,
            "precision": "auto",
            "sample_every": 1000,
            "evaluate_every": 1000,
        }
    ),
)
# The same with coarser pixels and fewer steps, useful on two cores without a GPU.
PRESETS["small"] = PRESETS["default"].model_copy(
    update={
        "data": PRESETS["default"].data.model_copy(
            update={"size": 176, "pixel_mm": 1.25}  # 220 mm
        ),
        "network": PRESETS["default"].network.model_copy(update={"discriminator_filters": 32}),
        "train": PRESETS["default"].train.model_copy(
            update={
                "epochs": 30,
                "checkpoint_every": 500,
                "sample_every": 500,
                "evaluate_every": 500,
            }
        ),
    }
)


def load_config(
    preset: str = "default", file: Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """A preset, overlaid by a YAML file, overlaid by `key=value` settings.

    Raises:
        UsageError: For an unknown preset or key, or a value of the wrong type or range.
    """
    if preset not in PRESETS:
        raise UsageError(
            f"unknown preset {preset!r}: expected {', '.join(PRESETS)}",
            fix=_nearest(preset, PRESETS),
        )
    settings = PRESETS[preset].model_dump()
    if file is not None:
        _overlay(settings, read_yaml(file), source=str(file))
    _override(settings, overrides)
    return parse_config(settings, source="--set" if file is None else str(file))


def overlaid(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration overlaid by `key=value` settings.

    Raises:
        UsageError: For an unknown key, or a value of the wrong type or range.
    """
    settings = config.model_dump()
    _override(settings, overrides)
    return parse_config(settings, source="--set")


def parse_config(settings: dict[str, Any], *, source: str) -> Config:
    """The configuration in a nested dictionary.

    Raises:
        UsageError: If a key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f" = {reprlib.repr(first['input'])}"
        raise UsageError(
            f"{key}{found}: {first['msg'][0].lower()}{first['msg'][1:]}",
            file=source,
            fix=f"change {key}; {DOCS}",
        ) from error


def config_yaml(config: Config) -> str:
    """The configuration as YAML that `read_yaml` takes back unchanged."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False)


def with_steps(config: Config, steps: int | None, epochs: int | None) -> Config:
    """The configuration with another length of schedule; None leaves it."""
    update: dict[str, int | None] = {}
    if steps is not None:
        update = {"steps": steps}
    if epochs is not None:
        update = {"steps": None, "epochs": epochs}
    settings = config.model_dump()
    settings["train"].update(update)
    return parse_config(settings, source="--steps" if steps is not None else "--epochs")


def schedule_steps(config: Config, images: int) -> int:
    """Steps of the whole schedule, for a larger folder of that many images."""
    if config.train.steps is not None:
        return config.train.steps
    return math.ceil(config.train.epochs * images / config.train.batch_size)


def differing_keys(old: Config, new: Config) -> dict[str, tuple[object, object]]:
    """Dotted key -> (old, new) of every setting that differs."""
    before, after = flat(old.model_dump()), flat(new.model_dump())
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _override(settings: dict[str, Any], overrides: Sequence[str]) -> None:
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals:
            raise UsageError(
                f"expected key=value, found {item!r}", fix="write for example --set data.size=128"
            )
        value: Any = parse_yaml(text, source=f"--set {key}")
        for part in reversed(key.split(".")):
            value = {part: value}
        _overlay(settings, value, source="--set")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of nested settings."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _overlay(settings: dict[str, Any], changes: dict[str, Any], source: str, at: str = "") -> None:
    """Write `changes` over `settings` in place; a key that is not there is refused."""
    for key, value in changes.items():
        if key not in settings:
            raise UsageError(
                f"unknown key '{at}{key}' in {source}",
                fix=_nearest(f"{at}{key}", [at + name for name in settings]),
            )
        if isinstance(settings[key], dict):
            if not isinstance(value, dict):
                raise UsageError(
                    f"'{at}{key}' in {source} is a group of settings, found {value!r}",
                    fix=f"set one of {', '.join(f'{at}{key}.{name}' for name in settings[key])}",
                )
            _overlay(settings[key], value, source, f"{at}{key}.")
        else:
            settings[key] = value


def _nearest(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"did you mean '{close[0]}'" if close else DOCS
