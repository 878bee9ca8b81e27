"""Whether one training step of ctmr equals one of pytorch-CycleGAN-and-pix2pix, from the same weights and images.

    parity.py --reference CLONE --reference-python PYTHON

The reference implementation is no part of this project. Clone github.com/junyanz/pytorch-CycleGAN-and-pix2pix (compared
with commit 2a7afba) and give it an environment of its own with torch, torchvision, numpy and pillow. It runs in a process
of its own, driven by reference_step.py, with the options `--lambda_A 8 --lambda_B 8 --lambda_identity 2`: twice equation
(4) of Li 2023, while its discriminator losses are equation (5). Its A is X (CT) and its B is Y (MR).

Both compute in float64: in float32 rounding alone turns the sign of gradients at the kinks of |x| and ReLU. Images and
losses must agree to 1e-5, and each network's gradients to 1e-5 of the largest; else the exit status is 1.
Updated weights are shown for information: Adam's first update is lr g / (|g| + 1e-8), where the factor of 2 in g matters
only if |g| is near 1e-8, and then by at most 0.17 lr = 3.4e-5; where rounding decides the sign of a vanishing gradient, a
weight may differ by up to 2 lr.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ctmr.config import Config, load_config
from ctmr.cyclegan.state import TrainState, new_state
from ctmr.cyclegan.step import train_step
from ctmr.errors import CtmrError, UsageError
from reference_step import convolution_parameters, load, save

TOLERANCE = 1e-5
# Our name -> the reference's.
NETWORKS = {"G": "G_A", "F": "G_B", "D_X": "D_B", "D_Y": "D_A"}
IMAGES = {
    "fake_y": "fake_B",
    "fake_x": "fake_A",
    "cycled_x": "rec_A",
    "cycled_y": "rec_B",
    "same_x": "idt_B",
    "same_y": "idt_A",
}
# Our name -> the reference's terms, and the factor on their sum.
LOSSES = {
    "gan": (("G_A", "G_B"), 1 / 2),
    "cycle": (("cycle_A", "cycle_B"), 1 / 8),
    "identity": (("idt_A", "idt_B"), 1 / 16),
    "loss_g": (("G",), 1 / 2),
    "loss_d_ct": (("D_B",), 1.0),
    "loss_d_mr": (("D_A",), 1.0),
}


@dataclass(frozen=True)
class Item:
    """One line of the comparison; `limit` is None where the difference is for information only."""

    name: str
    own: float
    reference: float
    difference: float
    limit: float | None


def settings(blocks: int, filters: int) -> Config:
    """The paper's losses and optimiser on the generator that both implementations have."""
    changes = {
        "data.channels": 1,
        "network.generator": "resnet",
        "network.blocks": blocks,
        "network.filters": filters,
        "network.discriminator_filters": filters,
    }
    return load_config("paper", overrides=[f"{key}={value}" for key, value in changes.items()])


def reference_options(config: Config, folder: Path) -> list[str]:
    """The same settings as options of the reference's train.py."""
    network, train = config.network, config.train
    options = {
        "dataroot": folder,
        "checkpoints_dir": folder,
        "model": "cycle_gan",
        "netG": f"resnet_{network.blocks}blocks",
        "ngf": network.filters,
        "ndf": network.discriminator_filters,
        "norm": "instance",
        "input_nc": config.data.channels,
        "output_nc": config.data.channels,
        "gan_mode": "lsgan",
        "lambda_A": 2 * config.loss.cycle,
        "lambda_B": 2 * config.loss.cycle,
        "lambda_identity": config.loss.identity / config.loss.cycle,
        "lr": train.learning_rate,
        "beta1": 0.5,
        "pool_size": train.history,
    }
    return ["--no_dropout", *(f"--{key}={value}" for key, value in options.items())]


def randomise_biases(model: nn.Module, rng: torch.Generator) -> None:
    """Give biases values too: at the zeros they start from, a lost bias would not show."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.0, 0.02, generator=rng)


def parameters_by_reference_name(state: TrainState) -> dict[str, nn.Parameter]:
    """Our parameters under the names that reference_step.py uses."""
    model = state.model
    own = {"G": model.G, "F": model.F, "D_X": model.D_X, "D_Y": model.D_Y}
    return convolution_parameters({NETWORKS[name]: network for name, network in own.items()})


def our_step(config: Config, state: TrainState, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Images, losses, gradients and updated weights of one `train_step`."""
    with torch.no_grad():
        images = state.model(x, y, identity=True)
    losses = train_step(state, x, y, config.loss, nullcontext, config.seed)
    parameters = parameters_by_reference_name(state)
    return {
        **{f"image.{key}": value for key, value in images._asdict().items()},
        **{f"loss.{key}": value for key, value in losses.items()},
        **{f"gradient.{key}": p.grad for key, p in parameters.items() if p.grad is not None},
        **{f"weight.{key}": p.detach() for key, p in parameters.items()},
    }


def reference_step(
    python: Path, reference: Path, folder: Path, config: Config
) -> dict[str, Tensor]:
    """The same from the reference, which reads `input.npz` in `folder`.

    Raises:
        UsageError: If it does not run.
    """
    driver = Path(__file__).resolve().with_name("reference_step.py")
    options = reference_options(config, folder)
    command: list[str | Path] = [python, driver, reference.resolve(), folder, *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # it would take a GPU by itself
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(
            f"cannot run it ({error.strerror})", file=python, fix="correct --reference-python"
        ) from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(
            f"one step of the reference failed ({reason})",
            file=reference,
            fix=f"let {python} import torch, torchvision, numpy and PIL, and use a whole clone",
        )
    return load(folder / "output.npz")


def compare(own: dict[str, Tensor], reference: dict[str, Tensor]) -> list[Item]:
    """Images, losses and gradients, which have to agree, and the updated weights."""
    items: list[Item] = []
    for name, other in IMAGES.items():
        a, b = own[f"image.{name}"], reference[f"image.{other}"]
        items.append(Item(name, rms(a), rms(b), largest(a - b), TOLERANCE))
    for name, (terms, factor) in LOSSES.items():
        value = float(own[f"loss.{name}"])
        expected = factor * sum(float(reference[f"loss.{term}"]) for term in terms)
        items.append(Item(name, value, expected, abs(value - expected), TOLERANCE))
    for name, other in NETWORKS.items():
        a, b = joined(own, reference, f"gradient.{other}.")
        b *= 0.5 if name in ("G", "F") else 1.0
        relative = largest(a - b) / largest(b)
        items.append(Item(f"gradient {name}", rms(a), rms(b), relative, TOLERANCE))
    for name, other in NETWORKS.items():
        a, b = joined(own, reference, f"weight.{other}.")
        items.append(Item(f"weight {name}", rms(a), rms(b), largest(a - b), None))
    return items


def joined(
    own: dict[str, Tensor], reference: dict[str, Tensor], prefix: str
) -> tuple[Tensor, Tensor]:
    """All of our tensors under that prefix and the reference's of the same names, each as one vector."""
    keys = [key for key in own if key.startswith(prefix)]
    a, b = (torch.cat([tensors[key].flatten() for key in keys]) for tensors in (own, reference))
    return a, b


def largest(tensor: Tensor) -> float:
    """Largest absolute value."""
    return float(tensor.abs().max())


def rms(tensor: Tensor) -> float:
    """Root of the mean square."""
    return float(tensor.square().mean().sqrt())


def table(items: Sequence[Item]) -> str:
    """The comparison as text."""
    lines = [f"{'':12}  {'ours':>13}  {'reference':>13}  {'difference':>10}  limit"]
    for item in items:
        limit = "-" if item.limit is None else f"{item.limit:.0e}"
        lines.append(
            f"{item.name:12}  {item.own:13.9f}  {item.reference:13.9f}  {item.difference:10.1e}  {limit}"
        )
    return "\n".join(lines)


def run(args: argparse.Namespace) -> list[Item]:
    """Both steps from the same weights and images."""
    if not (args.reference / "models" / "cycle_gan_model.py").is_file():
        raise UsageError(
            "expected a clone of pytorch-CycleGAN-and-pix2pix, found no models/cycle_gan_model.py",
            file=args.reference,
            fix="correct --reference",
        )
    config = settings(args.blocks, args.filters)
    state = new_state(config, torch.device("cpu"))
    state.model.double()  # before the optimisers have moments
    rng = torch.Generator().manual_seed(config.seed)
    randomise_biases(state.model, rng)
    x, y = (
        2 * torch.rand(2, 1, config.data.channels, args.size, args.size, generator=rng).double() - 1
    )
    weights = {f"weight.{key}": p for key, p in parameters_by_reference_name(state).items()}
    with tempfile.TemporaryDirectory() as name:
        save(Path(name, "input.npz"), {**weights, "image.A": x, "image.B": y})
        reference = reference_step(args.reference_python, args.reference, Path(name), config)
    return compare(our_step(config, state, x, y), reference)


def image_size(text: str) -> int:
    """A side that both networks can take."""
    size = int(text)
    if size < 32 or size % 4:
        raise argparse.ArgumentTypeError(f"expected a multiple of 4, at least 32, found {size}")
    return size


def main() -> int:
    """Print the comparison; 0 if the two agree, 1 if not, 2 if they could not be compared."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", type=Path, required=True, help="clone of the reference")
    parser.add_argument("--reference-python", type=Path, required=True, help="its Python")
    parser.add_argument("--size", type=image_size, default=64, help="side of the images")
    parser.add_argument("--blocks", type=int, choices=(6, 9), default=9, help="residual blocks")
    parser.add_argument("--filters", type=int, default=16, help="filters of the first layers")
    parser.add_argument("--json", action="store_true", help="print JSON as the last line")
    args = parser.parse_args()
    try:
        items = run(args)
    except CtmrError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr)
        return error.exit_code
    agree = all(item.difference <= item.limit for item in items if item.limit is not None)
    print(
        f"one step at {args.size}x{args.size}, {args.blocks} blocks, {args.filters} filters, float64"
    )
    print("values: of images, gradients and updated weights the root mean square")
    print("difference: the largest; of gradients as a share of the largest gradient\n")
    print(table(items))
    print(f"\n{'equal' if agree else 'NOT equal'} to {TOLERANCE:.0e}")
    if args.json:
        report = {name: vars(args)[name] for name in ("size", "blocks", "filters")}
        print(json.dumps({**report, "equal": agree, "items": [asdict(item) for item in items]}))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
