"""The folder that travels: both generators, both discriminators and `model.json`."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from ctmr.checkpoint import TrainState, load_strictly
from ctmr.config import Config, DataConfig, NetworkConfig
from ctmr.cyclegan import DIRECTIONS, Direction, generator_of
from ctmr.errors import CheckpointError, OutputError
from ctmr.files import sync
from ctmr.networks import Discriminator, Generator

Network = TypeVar("Network", bound=nn.Module)

FORMAT = 1
NOTICE = "Research use only. A translated image can add or remove disease; it is not for diagnosis."
GENERATOR_FILES: dict[Direction, str] = {
    "ct-to-mr": "generator_ct_to_mr.safetensors",
    "mr-to-ct": "generator_mr_to_ct.safetensors",
}
DISCRIMINATOR_FILES = {"ct": "discriminator_ct.safetensors", "mr": "discriminator_mr.safetensors"}


@dataclass(frozen=True, eq=False)
class Model:
    """What a model folder holds.

    Attributes:
        generators: By direction; `(B, C, H, W)` in [-1, 1] to the same.
        discriminators: By modality: `ct` is D_X, `mr` is D_Y.
        network: Architecture.
        data: What the networks were shown: size, channels, window.
        about: All of `model.json`: scale, intensities, provenance, notice.
        sha256: Hash over `model.json`, which holds the hashes of the weights.
    """

    generators: dict[Direction, Generator]
    discriminators: dict[str, Discriminator]
    network: NetworkConfig
    data: DataConfig
    about: dict[str, Any]
    sha256: str


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
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    hashes = {}
    try:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(parents=True)
        for name, network in networks.items():
            weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
            content = to_bytes(weights)
            hashes[name] = hashlib.sha256(content).hexdigest()
            (new / name).write_bytes(content)
            sync(new / name)
        text = json.dumps({"format": FORMAT, "notice": NOTICE, **about, "files": hashes}, indent=1)
        (new / "model.json").write_text(text + "\n", encoding="utf-8")
        sync(new / "model.json")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"cannot write the model ({error.strerror})",
            file=folder,
            fix="check space and permissions",
        ) from error


def model_folder(path: Path) -> Path:
    """The model folder meant by MODEL: a run, its `model/`, or an exported folder.

    Raises:
        CheckpointError: If there is no `model.json` in either place.
    """
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
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
    text = (folder / "model.json").read_bytes()
    try:
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"expected model format {FORMAT}, found {about['format']!r}",
                file=folder / "model.json",
                fix="use the version of ctmr that wrote it",
            )
        network = NetworkConfig.model_validate(about["network"])
        data = DataConfig.model_validate(about["data"])
        hashes = {str(name): str(value) for name, value in about["files"].items()}
        for key in ("scale", "intensities", "provenance", "training"):
            about[key]
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise CheckpointError(
            f"not a model.json of ctmr ({type(error).__name__}: {error})",
            file=folder / "model.json",
            fix="copy the whole model folder again",
        ) from error
    generators: dict[Direction, Generator] = {}
    for direction in DIRECTIONS:
        generators[direction] = _load(
            generator_of(network, data.channels), folder / GENERATOR_FILES[direction], hashes
        )
    discriminators = {
        modality: _load(
            Discriminator(data.channels, network.discriminator_filters), folder / name, hashes
        )
        for modality, name in DISCRIMINATOR_FILES.items()
    }
    return Model(generators, discriminators, network, data, about, hashlib.sha256(text).hexdigest())


def _load(network: Network, file: Path, hashes: dict[str, str]) -> Network:
    """The network with the weights of a file whose hash is the one that `model.json` gives."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the weights ({error.strerror})",
            file=file,
            fix="copy the whole folder again",
        ) from error
    found, expected = hashlib.sha256(content).hexdigest(), hashes.get(file.name, "")
    if found != expected:
        raise CheckpointError(
            f"damaged: expected sha256 {expected[:16]}..., found {found[:16]}...",
            file=file,
            fix="copy the whole folder again",
        )
    try:
        tensors = from_bytes(content)
    except SafetensorError as error:
        raise CheckpointError(
            f"not a safetensors file ({error})", file=file, fix="copy the whole folder again"
        ) from error
    load_strictly(network, tensors, file)
    network.eval().requires_grad_(False)
    return network


def load_weights(path: Path, state: TrainState, config: Config) -> None:
    """Start from a model: its four networks into a fresh state, whose optimisers stay fresh.

    Raises:
        CheckpointError: If the model cannot be read, or its networks are not the configuration's.
    """
    model = read_model(path)
    if model.network != config.network or model.data.channels != config.data.channels:
        raise CheckpointError(
            f"its networks are {model.network}, {model.data.channels} channels; the configuration"
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
