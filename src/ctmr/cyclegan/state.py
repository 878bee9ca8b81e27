"""All that training changes, by name: networks, optimisers, earlier fakes, averages and the step."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ctmr.config import Config
from ctmr.cyclegan.cyclegan import CycleGAN
from ctmr.cyclegan.image_buffer import History
from ctmr.cyclegan.networks import Generator
from ctmr.errors import CheckpointError, DivergedError

FAKES = (torch.float32, torch.bfloat16)  # types that earlier fakes come in, by the precision


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
        adversarial: Whether D_X and D_Y are trained.
        shape: Of an image in training, (C, H, W).
    """

    model: CycleGAN
    optimiser_g: torch.optim.Adam
    optimiser_d: torch.optim.Adam
    history_x: History
    history_y: History
    ema: nn.ModuleDict
    step: int
    adversarial: bool
    shape: tuple[int, int, int]

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

    def optimisers(self) -> dict[str, torch.optim.Adam]:
        """Both, by the names their tensors begin with."""
        return {"optimiser_g": self.optimiser_g, "optimiser_d": self.optimiser_d}

    def histories(self) -> dict[str, History]:
        """Both, by the names their images begin with."""
        return {"history_x": self.history_x, "history_y": self.history_y}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a name of its own, where it is."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"ema.{key}": value for key, value in self.ema.state_dict().items()}
        for name, optimiser in self.optimisers().items():
            for i, moments in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{i}.{key}": value for key, value in moments.items()}
        for name, history in self.histories().items():
            tensors |= {f"{name}.{i}": image for i, image in enumerate(history.images)}
        return tensors


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
        adversarial=config.loss.adversary > 0,
        shape=(config.data.channels, config.data.size, config.data.size),
    )


def require_finite(state: TrainState, run: Path) -> None:
    """Refuse a state with a value that is NaN or infinite: a loss can be finite when its gradient is not.

    Raises:
        DivergedError: Naming the first five tensors that have one.
    """
    spoilt = [key for key, value in state.tensors().items() if not torch.isfinite(value).all()]
    if spoilt:
        raise DivergedError(
            f"training diverged: NaN or infinity in {spoilt[:5]} at step {state.step}; checkpoints"
            " are from before",
            file=run,
            fix="start again with a smaller train.learning_rate",
        )


def restore(
    state: TrainState, tensors: Mapping[str, Tensor], step: int, kept: Sequence[int], path: Path
) -> None:
    """Make a state what `tensors` say, once all of them have been found to fit.

    Args:
        state: Of the same configuration.
        tensors: As `TrainState.tensors` gives them.
        step: Updates done.
        kept: Images in both histories.
        path: For messages.

    Raises:
        CheckpointError: If one is missing, unknown, of another shape or type, or not finite; the state is then what it was.
    """
    expected = {f"model.{key}": value for key, value in state.model.state_dict().items()}
    expected |= {f"ema.{key}": value for key, value in state.ema.state_dict().items()}
    for name, optimiser in state.optimisers().items():
        used = step > 0 and (state.adversarial or optimiser is state.optimiser_g)
        for i, weight in enumerate(optimiser.param_groups[0]["params"] if used else ()):
            expected[f"{name}.{i}.step"] = torch.zeros(())
            expected |= {f"{name}.{i}.exp_avg": weight, f"{name}.{i}.exp_avg_sq": weight}
    for (name, history), count in zip(state.histories().items(), kept, strict=True):
        if not 0 <= count <= history.capacity:
            raise _misfit(path, f"{name} must hold up to {history.capacity} images, found {count}")
        for key in (f"{name}.{i}" for i in range(count)):
            kind = tensors[key].dtype if key in tensors else FAKES[0]
            expected[key] = torch.empty(state.shape, dtype=kind if kind in FAKES else FAKES[0])
    _require_alike(tensors, expected, path)

    def part(prefix: str) -> dict[str, Tensor]:
        length = len(prefix) + 1
        return {k[length:]: value for k, value in tensors.items() if k.startswith(prefix + ".")}

    state.model.load_state_dict(part("model"))
    state.ema.load_state_dict(part("ema"))
    for name, optimiser in state.optimisers().items():
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part(name).items():
            index, _, moment = key.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments, "param_groups": groups})
    device = next(state.model.parameters()).device
    for (name, history), count in zip(state.histories().items(), kept, strict=True):
        history.images = [tensors[f"{name}.{i}"].to(device) for i in range(count)]
    state.step = step


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network: same keys, shapes and types, all finite.

    Raises:
        CheckpointError: Naming the first five that differ.
    """
    _require_alike(tensors, network.state_dict(), path)
    network.load_state_dict(dict(tensors))


def _require_alike(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse tensors that have not the names, shapes and types of `expected`, or that are not finite."""
    strange = sorted(set(expected) ^ set(tensors))
    if strange:
        raise _misfit(path, f"missing or unknown keys {strange[:5]}")
    wrong = []
    for key, value in expected.items():
        found = tensors[key]
        if found.shape != value.shape or found.dtype != value.dtype:
            wrong.append(f"{key} must be {_kind(value)}, found {_kind(found)}")
        elif not torch.isfinite(found).all():
            wrong.append(f"{key} must be finite, found NaN or infinity")
    if wrong:
        raise _misfit(path, "; ".join(wrong[:5]))


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _misfit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        what, file=path, fix="use the configuration and version of ctmr that wrote it"
    )
