"""The folder that travels: both generators, the discriminators of a training by adversaries, `model.json`, `README.md`."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import nn

from ctmr.config import Config, NetworkConfig
from ctmr.cyclegan.cyclegan import generator_of
from ctmr.cyclegan.networks import Discriminator, Generator
from ctmr.cyclegan.state import TrainState, load_strictly
from ctmr.errors import CheckpointError, printable
from ctmr.models.card import (
    CARD_NAME,
    FORMAT,
    MAX_HEADER_BYTES,
    UNSEALED,
    Card,
    check_hash,
    read_card,
    read_file,
    sealed,
)
from ctmr.models.engines import Engine, Network, Precision
from ctmr.models.lookup import DISCRIMINATOR_FILES, GENERATOR_FILES, model_folder
from ctmr.models.readme import README_NAME, is_own_readme, model_readme
from ctmr.models.torch_engine import network_by
from ctmr.notice import NOTICE
from ctmr.system.files import is_draft, persistently, replacing_folder, write_bytes
from ctmr.types import Direction, Modality

Loaded = TypeVar("Loaded", bound=nn.Module)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Model:
    """What a model folder holds.

    Attributes:
        generators: By direction; `(B, C, H, W)` in [-1, 1] to the same.
        discriminators: By modality: `ct` is D_X, `mr` is D_Y; empty where none were trained.
        card: `model.json`.
    """

    generators: dict[Direction, Generator]
    discriminators: dict[Modality, Discriminator]
    card: Card

    def network(self, direction: Direction, engine: Engine, precision: Precision) -> Network:
        """One of the generators, made ready: by PyTorch on a GPU where there is one, else on the CPU."""
        cuda = engine == "torch" and torch.cuda.is_available()
        generator = self.generators[direction].to("cuda" if cuda else "cpu")
        return network_by(engine, generator, self.card.data.channels, precision)


def model_of(state: TrainState, about: dict[str, Any]) -> Model:
    """The model of a training as it is now, sharing its networks; `about` as for `save_model`."""
    card = Card.model_validate(
        {"format": FORMAT, "sha256": UNSEALED.decode(), "files": {}, **about}
    )
    generators = dict(zip(GENERATOR_FILES, state.translators(), strict=True))
    trained: dict[Modality, Any] = {"ct": state.model.D_X, "mr": state.model.D_Y}
    discriminators = trained if state.adversarial else {}
    return Model(generators, discriminators, card)


def save_model(folder: Path, state: TrainState, about: dict[str, Any]) -> None:
    """Write the model of a training in place of an older one; see `write_model`."""
    networks: dict[str, nn.Module] = dict(
        zip(GENERATOR_FILES.values(), state.translators(), strict=True)
    )
    if state.adversarial:
        networks[DISCRIMINATOR_FILES["ct"]] = state.model.D_X
        networks[DISCRIMINATOR_FILES["mr"]] = state.model.D_Y
    write_model(folder, networks, about)


def write_model(
    folder: Path, networks: Mapping[str, nn.Module], about: dict[str, Any], *, half: bool = False
) -> None:
    """Write a model folder in place of an older one; a `README.md` that ctmr did not write, or that was changed, stays.

    Args:
        folder: Where.
        networks: By the names of their files, `GENERATOR_FILES` and, where there are any, `DISCRIMINATOR_FILES`.
        about: Becomes `model.json` with the files' hashes.
        half: Store weights in float16; they are float32 again once they are read.

    Raises:
        OutputError: If it cannot be written.
    """
    contents = {name: weights_of(network, half=half) for name, network in networks.items()}
    write_files(folder, contents, about)


def weights_of(network: nn.Module, *, half: bool = False) -> bytes:
    """The weights of a network as a safetensors file, in float32 or float16."""
    kind = torch.float16 if half else torch.float32
    return to_bytes(
        {key: value.cpu().to(kind).contiguous() for key, value in network.state_dict().items()}
    )


def write_files(
    folder: Path, files: Mapping[str, bytes], about: dict[str, Any], page: str | None = None
) -> None:
    """Write files, the `model.json` that has their hashes, and `README.md`, in place of an older folder; see `write_model`.

    Args:
        folder: Where.
        files: By name.
        about: Becomes `model.json`.
        page: Becomes `README.md`, unless a user has written one there; None makes it of `about`.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    card = {"format": FORMAT, "sha256": UNSEALED.decode(), "notice": NOTICE, **about}
    contents = {**files, CARD_NAME: sealed(json.dumps({**card, "files": hashes}, indent=1))}
    readme = page or model_readme(Card.model_validate_json(contents[CARD_NAME]))

    def write() -> None:
        with replacing_folder(folder) as new:
            for name, content in contents.items():
                write_bytes(new / name, content)
            there = folder / README_NAME
            if is_own_readme(there) or not os.path.lexists(there):
                write_bytes(new / README_NAME, readme.encode())
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


def read_model(path: Path) -> Model:
    """Read a model, every file checked against its hash before it is parsed.

    Raises:
        CheckpointError: If a file is missing, damaged, foreign or of another version.
    """
    folder = model_folder(path)
    card = read_card(folder / CARD_NAME)
    network, channels = card.network, card.data.channels
    generators = {
        direction: _load(lambda: generator_of(network, channels), folder / name, card.files)
        for direction, name in GENERATOR_FILES.items()
    }
    wide = network.discriminator_filters
    discriminators = {
        modality: _load(lambda: Discriminator(channels, wide), folder / name, card.files)
        for modality, name in DISCRIMINATOR_FILES.items()
        if card.files.keys() & set(DISCRIMINATOR_FILES.values())
    }
    return Model(generators, discriminators, card)


def _load(build: Callable[[], Loaded], file: Path, hashes: dict[str, str]) -> Loaded:
    """The network with the weights of a file whose hash is the one that `model.json` gives.

    What `model.json` asks for takes memory only if the file holds as much.
    """
    with torch.device("meta"):
        network = build()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    content = read_file(file, needed + MAX_HEADER_BYTES)
    check_hash(file, hashes.get(file.name, ""), content)
    try:
        tensors = from_bytes(content)
        if {tensor.dtype for tensor in tensors.values()} == {torch.float16}:
            tensors = {key: tensor.float() for key, tensor in tensors.items()}
        length = int.from_bytes(content[:8], "little")
        names = json.loads(content[8 : 8 + length], object_pairs_hook=list)
        if len(dict(names)) < len(names):
            raise ValueError("a name is given twice")
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        what, fix = f"not a safetensors file of weights ({error})", "copy the whole folder again"
        raise CheckpointError(what, file=file, fix=fix) from error
    if len(content) > needed / 2:  # else it cannot fit, and is refused by its names or shapes
        network = build()
    load_strictly(network, tensors, file)
    network.eval().requires_grad_(False)
    return network


def load_weights(path: Path, state: TrainState, config: Config) -> None:
    """Start from a model: its networks into a fresh state, whose optimisers stay fresh.

    Discriminators stay fresh too, with a warning, where the model has none of the configuration's width.

    Raises:
        CheckpointError: If the model cannot be read, or its generators are not the configuration's.
    """
    with torch.random.fork_rng(devices=[]):  # layers draw weights first, which are replaced
        model = read_model(path)
    has = _shape(model.card.network, model.card.data.channels)
    asked = _shape(config.network, config.data.channels)
    if has != asked:
        wrong = [key for key in has if has[key] != asked.get(key)]
        raise CheckpointError(
            f"its generators are {has}; the configuration asks for {asked}",
            file=path,
            fix="add " + " ".join(f"--set {key}={has[key]}" for key in wrong),
        )
    if model.card.data.ct_window != config.data.ct_window:
        logger.warning(
            "%s: it was trained with data.ct_window=%s, the configuration has %s",
            printable(str(path)),
            model.card.data.ct_window,
            config.data.ct_window,
        )
    networks: dict[str, nn.Module] = {
        "G": model.generators["ct-to-mr"],
        "F": model.generators["mr-to-ct"],
    }
    wide = model.card.network.discriminator_filters == config.network.discriminator_filters
    if model.discriminators and wide:
        networks |= {"D_X": model.discriminators["ct"], "D_Y": model.discriminators["mr"]}
    elif state.adversarial:
        logger.warning(
            "%s: the model has no discriminators%s: they start fresh",
            printable(str(path)),
            " of this width" if model.discriminators else "",
        )
    for name, network in networks.items():
        state.model.get_submodule(name).load_state_dict(network.state_dict())
        if name in state.ema:
            state.ema.get_submodule(name).load_state_dict(network.state_dict())


def _shape(network: NetworkConfig, channels: int) -> dict[str, object]:
    """The settings that decide the shapes of the generators' weights."""
    needed = ["generator", "filters"]
    needed += {"unet": [], "resnet": ["blocks", "upsample"]}.get(
        network.generator, ["upsample", "skips"]
    )
    shape: dict[str, object] = {f"network.{key}": getattr(network, key) for key in needed}
    return shape | {"data.channels": channels}
