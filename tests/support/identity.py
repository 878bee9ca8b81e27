"""A model whose generators return what they are given, so that all around them can be seen."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ctmr.config import load_config
from ctmr.cyclegan.networks import UNet, initialise
from ctmr.imaging.intensity import MR_UNITS, Intensity, ct_window
from ctmr.imaging.resampling import Scale
from ctmr.models.card import Card
from ctmr.models.folder import Model, write_model
from ctmr.models.lookup import GENERATOR_FILES
from ctmr.models.quality import Distribution, Usual
from ctmr.system.rng import torch_stream
from ctmr.translation.translator import Translator

# Training images near which every image is.
ANYWHERE = Distribution((0.0,) * 7, ((0.0,) * 7,) * 7)
GREY_8 = Intensity("grey", (0.0, 255.0))
HU = ct_window("wide")
# As many levels as HU has, so that HU -1024..3071 become grey 0..4095.
GREY_12 = Intensity("grey", (0.0, 4095.0))


class Identity(nn.Module):
    """A generator that changes nothing."""

    multiple = 4
    smallest = 16

    def __init__(self) -> None:
        super().__init__()
        self.device_holder = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Inverse(Identity):
    """A generator that turns black into white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


class Shade(Identity):
    """A generator that makes the left half brighter by 0.4 of the range."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shaded = x.clone()
        shaded[..., : x.shape[-1] // 2] += 0.8
        return shaded


class Brighter(Identity):
    """A generator that makes everything brighter by 0.1 of the range."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2


def translator(
    *,
    ct: dict[str, Intensity] | None = None,
    mr: dict[str, Intensity] | None = None,
    scale: Scale | None = None,
    channels: int = 1,
    generator: type[Identity] = Identity,
    usual: Usual | None = None,
    patients: str | None = None,
    mirror: bool = False,
    head_mm2: float | None = None,
) -> Translator:
    """The translator of an identity model; by default of 8-bit CT and MR at a short side of 64 pixels."""
    config = load_config("small", overrides=["data.size=32"])
    usual = usual or Usual({}, 1.0, ANYWHERE)
    data = config.data.model_copy(update={"channels": channels, "patient_pattern": patients})
    card = Card(
        format=2,
        sha256="0" * 64,
        network=config.network,
        data=data,
        scale=scale or Scale(64),
        intensities={"ct": ct or {"8-bit": GREY_8}, "mr": mr or {"8-bit": GREY_8}},
        training={"ct": usual, "mr": usual},
        mirror=mirror,
        head_mm2=head_mm2,
        provenance={},
        files={},
    )
    generators: Any = {"ct-to-mr": generator().eval(), "mr-to-ct": generator().eval()}
    return Translator(Model(generators, {}, card))


def smooth_head(height: int, width: int, low: float = 0, high: float = 255) -> np.ndarray:
    """A smooth image like a slice of a head, from `low` to `high`, whatever its size the same picture (H, W)."""
    rows = (np.arange(height)[:, None] + 0.5) / height * 2 - 1
    columns = (np.arange(width)[None] + 0.5) / width * 2 - 1
    radius = np.hypot(rows / 0.85, columns / 0.7)
    shell = np.exp(-(((radius - 0.9) / 0.08) ** 2))
    brain = 0.45 / (1 + np.exp((radius - 0.8) / 0.04)) * (1 + 0.3 * np.cos(9 * rows + 4 * columns))
    image = np.clip(shell + brain, 0, 1)
    return (low + (high - low) * image).astype(np.float32)


def write_bundled(folder: Path) -> None:
    """Write a model like that in the package, of tiny U-Nets with random weights."""
    networks: dict[str, nn.Module] = {name: UNet(1, 4) for name in GENERATOR_FILES.values()}
    for name, network in networks.items():
        initialise(network, "uniform", torch_stream(0, name))
    write_model(folder, networks, bundled_about(), half=True)
    (folder / "README.md").write_text(
        "---\nlibrary_name: ctmr\n---\n\n# head\n\nA model for tests.\n"
    )


def bundled_about() -> dict[str, Any]:
    """What the `model.json` of a bundled model of tiny U-Nets says."""
    config = load_config("default", overrides=["network.filters=4"])
    picture = {"unit": "grey", "levels": [-1, 1], "percentiles": [0.5, 99.5]}
    usual = {"ranges": {}, "cycle_error": 1.0, "distribution": asdict(ANYWHERE)}
    return {
        "network": config.network.model_dump(),
        "data": config.data.model_dump(),
        "scale": {"short_side": 287, "pixel_mm": 1.0},
        "head_mm2": 20000.0,
        "mirror": True,
        "intensities": {
            "ct": {"HU": asdict(ct_window("piecewise"))},
            "mr": {
                "MR": asdict(MR_UNITS),
                "8-bit": {**picture, "values": [0, 255]},
                "16-bit": {**picture, "values": [0, 65535]},
            },
        },
        "training": {"ct": usual, "mr": usual},
        "provenance": {
            "directions": ["ct-to-mr", "mr-to-ct"],
            "what": "a model for tests",
            "licence": "Apache-2.0",
            "limits": ["it is not trained"],
        },
    }
