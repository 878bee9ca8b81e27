"""A whole TrainState on disk and back: no pickle, verified before it is parsed, never half written."""

import copy
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ctmr.config import Config
from ctmr.cyclegan import CycleGAN
from ctmr.errors import CheckpointError, DivergedError, OutputError
from ctmr.files import replacing
from ctmr.history import History
from ctmr.networks import Generator

logger = logging.getLogger(__name__)

FORMAT = 1
KEEP = 2
NAME = re.compile(r"step_(\d{9})\.([0-9a-f]{16})\.ckpt")
FREE_SPACE = 2.2  # times the size of a checkpoint that must be free before one is written


@dataclass(eq=False)
class TrainState:
    """Everything that training changes; nothing else does.

    Attributes:
        model: G, F, D_X and D_Y.
        optimiser_g: Adam over G and F.
        optimiser_d: Adam over D_X and D_Y.
        history_x: Earlier fake CT shown to D_X.
        history_y: Earlier fake MR shown to D_Y.
        ema: Moving averages of G and F under these names; empty where none are kept.
        step: Updates done, and the number of the next one.
    """

    model: CycleGAN
    optimiser_g: torch.optim.Adam
    optimiser_d: torch.optim.Adam
    history_x: History
    history_y: History
    ema: nn.ModuleDict
    step: int

    def set_rate(self, rate: float) -> float:
        """Set the learning rate of both optimisers, and return it."""
        for optimiser in (self.optimiser_g, self.optimiser_d):
            for group in optimiser.param_groups:
                group["lr"] = rate
        return rate

    def translators(self) -> tuple[Generator, Generator]:
        """The generators that translate CT to MR and MR to CT: averaged ones if they are kept."""
        source = self.ema if len(self.ema) else self.model
        return cast(Generator, source.get_submodule("G")), cast(
            Generator, source.get_submodule("F")
        )


def new_state(config: Config, device: torch.device) -> TrainState:
    """A fresh state: step 0, weights drawn from the configuration's seed."""
    train = config.train
    model = CycleGAN(config.network, config.data.channels, config.seed).to(device)
    if device.type == "cpu":
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)  # faster there
    averaged = {"G": copy.deepcopy(model.G), "F": copy.deepcopy(model.F)} if train.ema > 0 else {}
    rate, betas = train.learning_rate, (0.5, 0.999)  # Li 2023
    return TrainState(
        model=model,
        optimiser_g=torch.optim.Adam(model.generator_parameters(), rate, betas, foreach=True),
        optimiser_d=torch.optim.Adam(model.discriminator_parameters(), rate, betas, foreach=True),
        history_x=History(train.history),
        history_y=History(train.history),
        ema=nn.ModuleDict(averaged).requires_grad_(False),
        step=0,
    )


def save(folder: Path, state: TrainState, about: Mapping[str, Any]) -> Path:
    """Write a checkpoint into `folder`, then remove all but the newest two.

    Args:
        folder: The run's `checkpoints/`.
        state: At a step's end.
        about: What `resume` has to know beside the tensors: configuration, data, versions.

    Raises:
        OutputError: If it cannot be written; earlier checkpoints are untouched.
        DivergedError: If a value is NaN or infinite: a loss can be finite when its gradient is not.
    """
    counts = [len(state.history_x.images), len(state.history_y.images)]
    header = {**about, "format": FORMAT, "step": state.step, "history": counts}
    tensors = _tensors(state)
    _require_finite(folder, state.step, tensors)
    content = to_bytes(tensors, {"ctmr": json.dumps(header, sort_keys=True)})
    folder.mkdir(parents=True, exist_ok=True)
    _require_space(folder, len(content))
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"step_{state.step:09d}.{digest[:16]}.ckpt"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    for old in checkpoints(folder)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def _require_finite(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    spoilt = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise DivergedError(
            f"training diverged: NaN or infinity in {spoilt[:5]} at step {step}; checkpoints are"
            " from before",
            file=folder,
            fix="start again with a smaller train.learning_rate",
        )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest step first."""
    found = [path for path in folder.glob("step_*.ckpt") if NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def resume(folder: Path, state: TrainState) -> dict[str, Any]:
    """Load the newest sound checkpoint of a folder into `state`; return what `save` was told about it.

    A damaged one is moved to `bad/` with a warning and the one before it is taken.

    Raises:
        CheckpointError: If none is sound, or it does not fit the state.
    """
    for path in checkpoints(folder):
        try:
            content = _verified(path)
        except CheckpointError as error:
            logger.warning("%s; going back to the checkpoint before", error)
            bad = folder / "bad"
            bad.mkdir(exist_ok=True)
            path.replace(bad / path.name)
            continue
        return _restore(path, content, state)
    raise CheckpointError(
        "expected a checkpoint, found none that is sound",
        file=folder,
        fix="start anew in another folder with --out",
    )


def read_about(folder: Path) -> dict[str, Any] | None:
    """What `save` was told about the newest checkpoint that is sound; None where there is none."""
    for path in checkpoints(folder):
        try:
            return _header(path, _verified(path))
        except CheckpointError:
            continue
    return None


def _verified(path: Path) -> Path:
    """The path, once its content's SHA-256 has been found to be the one in its name."""
    match = NAME.fullmatch(path.name)
    expected = match.group(2) if match else ""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    if found != expected:
        raise CheckpointError(
            f"damaged: expected sha256 {expected}..., found {found}...",
            file=path,
            fix="restore the file",
        )
    return path


def _header(path: Path, verified: Path) -> dict[str, Any]:
    try:
        with safe_open(verified, "pt") as stored:
            header: dict[str, Any] = json.loads((stored.metadata() or {})["ctmr"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"not a checkpoint of ctmr ({error})", file=path, fix="restore the file"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"expected checkpoint format {FORMAT}, found {header.get('format')!r}",
            file=path,
            fix="use the version of ctmr that wrote it",
        )
    return header


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of the state under a name of its own, on the CPU."""
    tensors = {f"model.{key}": value for key, value in state.model.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.ema.state_dict().items()}
    for name, optimiser in (("optimiser_g", state.optimiser_g), ("optimiser_d", state.optimiser_d)):
        for i, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}.{i}.{key}": value for key, value in moments.items()}
    for name, history in (("history_x", state.history_x), ("history_y", state.history_y)):
        tensors |= {f"{name}.{i}": image for i, image in enumerate(history.images)}
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _restore(path: Path, verified: Path, state: TrainState) -> dict[str, Any]:
    header = _header(path, verified)
    with safe_open(verified, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    step = int(header["step"])
    device = next(state.model.parameters()).device
    taken: set[str] = set()

    def take(prefix: str) -> dict[str, Tensor]:
        part = {key: value for key, value in tensors.items() if key.startswith(prefix + ".")}
        taken.update(part)
        return {key[len(prefix) + 1 :]: value for key, value in part.items()}

    load_strictly(state.model, take("model"), path, "model.")
    load_strictly(state.ema, take("ema"), path, "ema.")
    for name, optimiser in (("optimiser_g", state.optimiser_g), ("optimiser_d", state.optimiser_d)):
        _load_optimiser(optimiser, take(name), path, name, started=step > 0)
    histories = (("history_x", state.history_x), ("history_y", state.history_y))
    for (name, history), count in zip(histories, header["history"], strict=True):
        images = take(name)
        if set(images) != {str(i) for i in range(count)}:
            raise _misfit(path, f"{name} must hold {count} images, found {len(images)}")
        history.images = [images[str(i)].to(device) for i in range(count)]
    if set(tensors) != taken:
        raise _misfit(path, f"unknown keys {sorted(set(tensors) - taken)[:5]}")
    state.step = step
    return header


def load_strictly(
    network: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str = ""
) -> None:
    """Load weights into a network: same keys, shapes and types, all finite; `prefix` is for messages.

    Raises:
        CheckpointError: Naming the first five keys that differ.
    """
    expected = network.state_dict()
    wrong = sorted(prefix + key for key in set(expected) ^ set(tensors))
    if wrong:
        raise _misfit(path, f"missing or unknown keys {wrong[:5]}")
    for key, value in expected.items():
        if tensors[key].shape != value.shape or tensors[key].dtype != value.dtype:
            wanted = f"{tuple(value.shape)} {value.dtype}"
            found = f"{tuple(tensors[key].shape)} {tensors[key].dtype}"
            raise _misfit(path, f"{prefix}{key} must be {wanted}, found {found}")
        if not torch.isfinite(tensors[key]).all():
            raise _misfit(path, f"{prefix}{key} must be finite, found NaN or infinity")
    network.load_state_dict(dict(tensors))


def _load_optimiser(
    optimiser: torch.optim.Adam, tensors: dict[str, Tensor], path: Path, name: str, *, started: bool
) -> None:
    whole = optimiser.state_dict()
    count = len(whole["param_groups"][0]["params"]) if started else 0
    expected = {f"{i}.{key}" for i in range(count) for key in ("step", "exp_avg", "exp_avg_sq")}
    if set(tensors) != expected:
        wrong = sorted(f"{name}.{key}" for key in expected ^ set(tensors))
        raise _misfit(path, f"missing or unknown keys {wrong[:5]}")
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, moment = key.partition(".")
        moments.setdefault(int(index), {})[moment] = value
    optimiser.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})


def _misfit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        what, file=path, fix="use the configuration and version of ctmr that wrote it"
    )


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < FREE_SPACE * size:
        raise OutputError(
            f"a checkpoint needs {FREE_SPACE * size / 1e6:.0f} MB free, found {free / 1e6:.0f} MB",
            file=folder,
            fix="free space; the run goes on from its last checkpoint with --resume",
        )
