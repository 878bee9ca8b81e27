"""The folder that travels: both generators, both discriminators and `model.json`."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from ctmr.config import Config, DataConfig, NetworkConfig
from ctmr.cyclegan import Direction, generator_of
from ctmr.errors import CheckpointError
from ctmr.files import (
    is_draft,
    persistently,
    read_regular,
    replacing_folder,
    set_aside,
    write_bytes,
)
from ctmr.networks import Discriminator, Generator
from ctmr.quality import Measure, Usual
from ctmr.scale import Scale
from ctmr.state import TrainState, load_strictly
from ctmr.statistics import Correlation
from ctmr.store import Intensities
from ctmr.volume import Modality

Network = TypeVar("Network", bound=nn.Module)

FORMAT = 2
CARD_NAME = "model.json"
NOTICE = "Research use only. A translated image can add or remove disease; it is not for diagnosis."
GENERATOR_FILES: dict[Direction, str] = {
    "ct-to-mr": "generator_ct_to_mr.safetensors",
    "mr-to-ct": "generator_mr_to_ct.safetensors",
}
DISCRIMINATOR_FILES: dict[Modality, str] = {
    "ct": "discriminator_ct.safetensors",
    "mr": "discriminator_mr.safetensors",
}
MAX_HEADER_BYTES = 2**24  # of model.json, and of a file beside its weights
LEAST_SIDE, MOST_SIDE = 8, 2**14  # of scale.short_side
# What stands for the hash of `model.json` while it is computed.
UNSEALED = b"0" * 64
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"')


class Card(BaseModel):
    """What `model.json` says."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    format: Literal[2]
    sha256: str
    """Hash of `model.json`, this value taken as zeros; it covers the weights, whose hashes are in `files`."""
    network: NetworkConfig
    data: DataConfig
    """What the networks were shown: size, channels, window."""
    scale: Scale
    intensities: Intensities
    """Modality -> encoding of its training images -> map to [-1, 1]."""
    training: dict[Modality, Usual]
    correlations: dict[Direction, dict[Measure, Correlation | None]] | None = None
    """Of each measure of `quality` with the true error on held-out pairs; None where none were measured."""
    provenance: dict[str, Any]
    """Settings, data, steps, machine and versions it comes from."""
    files: dict[str, str]
    """File name -> SHA-256."""


@dataclass(frozen=True, eq=False)
class Model:
    """What a model folder holds.

    Attributes:
        generators: By direction; `(B, C, H, W)` in [-1, 1] to the same.
        discriminators: By modality: `ct` is D_X, `mr` is D_Y.
        card: `model.json`.
    """

    generators: dict[Direction, Generator]
    discriminators: dict[Modality, Discriminator]
    card: Card


def model_of(state: TrainState, about: dict[str, Any]) -> Model:
    """The model of a training as it is now, sharing its networks; `about` as for `save_model`."""
    card = Card.model_validate(
        {"format": FORMAT, "sha256": UNSEALED.decode(), "files": {}, **about}
    )
    generators = dict(zip(GENERATOR_FILES, state.translators(), strict=True))
    discriminators: dict[Modality, Any] = {"ct": state.model.D_X, "mr": state.model.D_Y}
    return Model(generators, discriminators, card)


def save_model(folder: Path, state: TrainState, about: dict[str, Any]) -> None:
    """Write a model folder in place of an older one; `about` becomes `model.json` with the files' hashes.

    Raises:
        OutputError: If it cannot be written.
    """
    networks: dict[str, nn.Module] = dict(
        zip(GENERATOR_FILES.values(), state.translators(), strict=True)
    )
    networks[DISCRIMINATOR_FILES["ct"]] = state.model.D_X
    networks[DISCRIMINATOR_FILES["mr"]] = state.model.D_Y
    contents = {
        name: to_bytes({key: value.cpu().contiguous() for key, value in its.state_dict().items()})
        for name, its in networks.items()
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    said = {"format": FORMAT, "sha256": UNSEALED.decode(), "notice": NOTICE, **about}
    contents[CARD_NAME] = sealed(json.dumps({**said, "files": hashes}, indent=1))

    def write() -> None:
        with replacing_folder(folder) as new:
            for name, content in contents.items():
                write_bytes(new / name, content)
            _keep_others(folder, new)

    persistently(write)


def _keep_others(folder: Path, new: Path) -> None:
    """Bring what somebody else has put into a model folder into the one that takes its place."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if (new / path.name).exists() or is_draft(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)


def sealed(text: str) -> bytes:
    """The text of a `model.json` as bytes, with its hash in place of the zeros."""
    content = text.encode() + b"\n"
    return content.replace(UNSEALED, hashlib.sha256(content).hexdigest().encode(), 1)


def model_folder(path: Path) -> Path:
    """The model folder meant by MODEL: a run, its `model/`, or an exported folder.

    Raises:
        CheckpointError: If there is no `model.json` in either place.
    """
    for folder in (path, path / "model", set_aside(path), set_aside(path / "model")):
        if (folder / CARD_NAME).is_file():
            return folder
    raise CheckpointError(
        "expected a run or a model folder with model.json, found none",
        file=path,
        fix="name the folder that ctmr train wrote with --out",
    )


def read_model(path: Path) -> Model:
    """Read a model, every file checked against its hash before it is parsed.

    Raises:
        CheckpointError: If a file is missing, damaged, foreign or of another version.
    """
    folder = model_folder(path)
    card = _card(folder / CARD_NAME)
    network, channels = card.network, card.data.channels
    generators = {
        direction: _load(lambda: generator_of(network, channels), folder / name, card.files)
        for direction, name in GENERATOR_FILES.items()
    }
    wide = network.discriminator_filters
    discriminators = {
        modality: _load(lambda: Discriminator(channels, wide), folder / name, card.files)
        for modality, name in DISCRIMINATOR_FILES.items()
    }
    return Model(generators, discriminators, card)


def _card(file: Path) -> Card:
    """What a `model.json` says, once its format and its own hash are found right."""
    content = _read(file, MAX_HEADER_BYTES)
    try:
        stated = json.loads(content, parse_constant=_number, parse_float=_number)["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(file, error) from error
    if stated != FORMAT:
        raise CheckpointError(
            f"expected model format {FORMAT}, found {stated!r}",
            file=file,
            fix="use the version of ctmr that wrote it",
        )
    seal = _SEAL.search(content)
    _check_hash(
        file,
        seal.group(1).decode() if seal else "",
        content.replace(seal.group(1), UNSEALED, 1) if seal else content,
    )
    try:
        card = Card.model_validate_json(content)
        if not card.provenance or not LEAST_SIDE <= card.scale.short_side <= MOST_SIDE:
            raise ValueError("provenance is empty, or scale.short_side beyond use")
    except ValueError as error:  # pydantic's too
        raise _foreign(file, error) from error
    return card


def _number(text: str) -> float:
    """The number in a JSON text; NaN and what is too large are none."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return float(text)


def _load(build: Callable[[], Network], file: Path, hashes: dict[str, str]) -> Network:
    """The network with the weights of a file whose hash is the one that `model.json` gives.

    What `model.json` asks for takes memory only if the file holds as much.
    """
    with torch.device("meta"):
        network = build()
    needed = sum(its.numel() * its.element_size() for its in network.state_dict().values())
    content = _read(file, needed + MAX_HEADER_BYTES)
    _check_hash(file, hashes.get(file.name, ""), content)
    try:
        tensors = from_bytes(content)
        length = int.from_bytes(content[:8], "little")
        names = json.loads(content[8 : 8 + length], object_pairs_hook=list)
        if len(dict(names)) < len(names):
            raise ValueError("a name is given twice")
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        what, fix = f"not a safetensors file of weights ({error})", "copy the whole folder again"
        raise CheckpointError(what, file=file, fix=fix) from error
    if len(content) > needed:  # else it cannot fit, and is refused by its names or shapes
        network = build()
    load_strictly(network, tensors, file)
    network.eval().requires_grad_(False)
    return network


def _read(file: Path, most: int) -> bytes:
    try:
        return read_regular(file, most)
    except OSError as error:
        raise CheckpointError(
            f"cannot read it ({error.strerror})", file=file, fix="copy the whole folder again"
        ) from error


def _check_hash(file: Path, expected: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"damaged: expected sha256 {expected[:16]}..., found {found[:16]}...",
            file=file,
            fix="copy the whole folder again",
        )


def _foreign(file: Path, error: Exception) -> CheckpointError:
    said = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return CheckpointError(
        f"not a model.json of ctmr ({type(error).__name__}: {said})",
        file=file,
        fix="copy the whole model folder again",
    )


def load_weights(path: Path, state: TrainState, config: Config) -> None:
    """Start from a model: its four networks into a fresh state, whose optimisers stay fresh.

    Raises:
        CheckpointError: If the model cannot be read, or its networks are not the configuration's.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw weights first, which are replaced
        model = read_model(path)
    architecture, channels = model.card.network, model.card.data.channels
    if architecture != config.network or channels != config.data.channels:
        raise CheckpointError(
            f"its networks are {architecture}, {channels} channels; the configuration"
            f" asks for {config.network}, {config.data.channels} channels",
            file=path,
            fix="train with the same network and data.channels settings",
        )
    pairs = {
        "G": model.generators["ct-to-mr"],
        "F": model.generators["mr-to-ct"],
        "D_X": model.discriminators["ct"],
        "D_Y": model.discriminators["mr"],
    }
    for name, network in pairs.items():
        state.model.get_submodule(name).load_state_dict(network.state_dict())
        if name in state.ema:
            state.ema.get_submodule(name).load_state_dict(network.state_dict())
