"""One optimisation step of the reference implementation; parity.py runs this in the reference's own environment.

    reference_step.py REFERENCE FOLDER [OPTION OF THE REFERENCE'S train.py]...

Reads `input.npz` in FOLDER and writes `output.npz` there. It imports the reference from its clone and nothing of ctmr.
"""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def convolution_parameters(networks: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Weights and biases of each network's convolutions, as `NETWORK.NUMBER.weight` in the order of its modules."""
    found: dict[str, nn.Parameter] = {}
    for name, network in networks.items():
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for i, layer in enumerate(layers):
            found |= {f"{name}.{i}.{key}": value for key, value in layer.named_parameters()}
    return found


def fill(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Set every parameter to its value; a bias without one (before an instance norm) to zero."""
    absent = {key for key in parameters.keys() - values.keys() if not key.endswith(".bias")}
    wrong = absent | (values.keys() - parameters.keys())
    wrong |= {
        key
        for key in parameters.keys() & values.keys()
        if parameters[key].shape != values[key].shape
    }
    if wrong:
        raise ValueError(f"the networks' convolutions differ: {sorted(wrong)[:5]}")
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(values.get(key, torch.zeros(())))


def step(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What one `optimize_parameters()` of the reference's model makes of these weights and images.

    Args:
        values: `image.A` and `image.B`, and `weight.` + each of `convolution_parameters`.

    Returns:
        `image.`, `loss.`, `gradient.` and `weight.` + the reference's names; the weights are the updated ones.
    """
    opt = importlib.import_module("options.train_options").TrainOptions().parse()
    opt.device = torch.device("cpu")
    model = importlib.import_module("models").create_model(opt)
    model.setup(opt)
    for name in model.model_names:
        getattr(model, f"net{name}").double()
    for criterion in (model.criterionGAN, model.criterionCycle, model.criterionIdt):
        criterion.double()
    parameters = convolution_parameters(
        {"G_A": model.netG_A, "G_B": model.netG_B, "D_A": model.netD_A, "D_B": model.netD_B}
    )
    fill(
        parameters,
        {k.removeprefix("weight."): v for k, v in values.items() if k.startswith("weight.")},
    )
    images = {"A": values["image.A"], "B": values["image.B"]}
    model.set_input({**images, "A_paths": [], "B_paths": []})
    model.optimize_parameters()
    losses = {**model.get_current_losses(), "G": float(model.loss_G)}
    return {
        **{f"image.{key}": value for key, value in model.get_current_visuals().items()},
        **{f"loss.{key}": torch.tensor(value) for key, value in losses.items()},
        **{f"gradient.{key}": p.grad for key, p in parameters.items() if p.grad is not None},
        **{f"weight.{key}": p for key, p in parameters.items()},
    }


def load(file: Path) -> dict[str, Tensor]:
    """The tensors in an `.npz` file."""
    with np.load(file) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to an `.npz` file."""
    np.savez(file, allow_pickle=False, **{key: t.detach().numpy() for key, t in tensors.items()})


def main() -> None:
    """Run the step between the two files."""
    reference, folder, *options = sys.argv[1:]
    sys.path.insert(0, reference)
    sys.argv[1:] = options  # where the reference looks for its options
    save(Path(folder, "output.npz"), step(load(Path(folder, "input.npz"))))


if __name__ == "__main__":
    main()
