"""What `model.json` says, sealed by its own hash."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctmr.config import DataConfig, NetworkConfig
from ctmr.errors import CheckpointError
from ctmr.imaging.intensity import Intensities
from ctmr.imaging.resampling import Scale
from ctmr.models.quality import Measure, Usual
from ctmr.results import Correlation
from ctmr.system.files import read_regular
from ctmr.types import Direction, Modality

FORMAT = 3
READ_FORMATS = (2, 3)
CARD_NAME = "model.json"
MAX_HEADER_BYTES = 2**24  # of model.json, and of a file beside its weights
MIN_SIDE, MAX_SIDE = 8, 2**14  # of scale.short_side
# What stands for the hash of `model.json` while it is computed.
UNSEALED = b"0" * 64
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"')


class Card(BaseModel):
    """What `model.json` says."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    format: Literal[2, 3]
    sha256: str
    """Hash of `model.json`, this value taken as zeros; it covers the weights, whose hashes are in `files`."""
    network: NetworkConfig
    data: DataConfig
    """What the networks were shown: size, channels, window."""
    scale: Scale
    intensities: Intensities
    """Modality -> encoding of its training images -> map to [-1, 1]."""
    training: dict[Modality, Usual]
    """What training images are like, of both modalities; empty if it is not known."""
    correlations: dict[Direction, dict[Measure, Correlation | None]] | None = None
    """Of each measure of `quality` with the true error on held-out pairs; None where none were measured."""
    mirror: bool = False
    """Whether a translation is the mean of that and of the mirrored image's, mirrored back."""
    head_mm2: float | None = Field(default=None, gt=0)
    """Area of a head in an axial slice, by which the pixel size of an image without a spacing is guessed."""
    provenance: dict[str, Any]
    """Settings, data, steps, machine and versions it comes from."""
    files: dict[str, str]
    """File name -> SHA-256."""


def sealed(text: str) -> bytes:
    """The text of a `model.json` as bytes, with its hash in place of the zeros."""
    content = text.encode() + b"\n"
    return content.replace(UNSEALED, hashlib.sha256(content).hexdigest().encode(), 1)


def read_card(file: Path) -> Card:
    """What a `model.json` says, once its format and its own hash are found right."""
    content = read_file(file, MAX_HEADER_BYTES)
    try:
        stated = json.loads(content, parse_constant=_number, parse_float=_number)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(file, error) from error
    if stated not in READ_FORMATS:
        raise CheckpointError(
            f"expected model format {' or '.join(map(str, READ_FORMATS))}, found {stated!r}",
            file=file,
            fix="use the version of ctmr that wrote it",
        )
    seal = _SEAL.search(content)
    check_hash(
        file,
        seal.group(1).decode() if seal else "",
        content.replace(seal.group(1), UNSEALED, 1) if seal else content,
    )
    try:
        card = Card.model_validate_json(content)
        if not card.provenance or not MIN_SIDE <= card.scale.short_side <= MAX_SIDE:
            raise ValueError("provenance is empty, or scale.short_side beyond use")
    except ValueError as error:  # pydantic's too
        raise _foreign(file, error) from error
    return card


def _number(text: str) -> float:
    """The number in a JSON text; NaN and what is too large are none."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return float(text)


def read_file(file: Path, most: int) -> bytes:
    try:
        return read_regular(file, most)
    except OSError as error:
        raise CheckpointError(
            f"cannot read it ({error.strerror})", file=file, fix="copy the whole folder again"
        ) from error


def check_hash(file: Path, expected: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"damaged: expected sha256 {expected[:16]}..., found {found[:16]}...",
            file=file,
            fix="copy the whole folder again",
        )


def _foreign(file: Path, error: Exception) -> CheckpointError:
    reason = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return CheckpointError(
        f"not a model.json of ctmr ({type(error).__name__}: {reason})",
        file=file,
        fix="copy the whole model folder again",
    )
