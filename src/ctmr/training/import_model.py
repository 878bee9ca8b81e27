"""A model folder from weights of pytorch-CycleGAN-and-pix2pix: what its images meant there, and what they are like."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ctmr.config import DataConfig, NetworkConfig
from ctmr.data.prepare import prepare
from ctmr.data.store import Store
from ctmr.errors import DataError, UsageError
from ctmr.imaging.ct_values import window_of
from ctmr.imaging.intensity import Intensities, Intensity
from ctmr.imaging.resampling import MARGIN, Scale
from ctmr.io.reading import DEFAULT, Reading
from ctmr.models.folder import write_model
from ctmr.models.import_weights import Imported, Pair, import_weights
from ctmr.models.lookup import DISCRIMINATOR_FILES, GENERATOR_FILES
from ctmr.system.files import require_empty
from ctmr.training.model_card import training_slices, training_statistics
from ctmr.types import MODALITIES, FloatArray, Modality, Progress

REFERENCE = "pytorch-CycleGAN-and-pix2pix"
SIZES = (36, 2048)  # pixels of the short side
PICTURE = Intensity("grey", (0.0, 255.0))  # 8 bits: ToTensor() and Normalize(0.5, 0.5) there


@dataclass(frozen=True)
class ImportSummary:
    """What was imported.

    Attributes:
        channels: Of an image.
        blocks: Residual blocks of a generator.
        filters: Of its first layer.
        discriminators: Whether there are any.
        measured: Whether training statistics were, so that translations are judged.
    """

    channels: int
    blocks: int
    filters: int
    discriminators: bool
    measured: bool


def import_model(
    net_g: Pair,
    out: Path,
    *,
    ct_is: Literal["A", "B"],
    size: int = 256,
    data: Path | None = None,
    net_d: Pair | None = None,
    reading: Reading = DEFAULT,
    progress: Progress | None = None,
) -> ImportSummary:
    """Write the model folder of imported weights.

    Args:
        net_g: Files of G_A and of G_B.
        out: New or empty folder.
        ct_is: The domain that holds CT.
        size: Pixels of the short side of what the networks are shown, 36 to 2048.
        data: Data folder or store of the images they were trained on; None leaves the quality of translations unknown.
        net_d: Files of D_A and of D_B.
        reading: How `data` is read; a window in HU as `ct_values` is what black and white of a CT stand for.
        progress: Called while `data` is prepared.

    Raises:
        OutputError: If `out` is not empty, or cannot be written.
        CheckpointError: If the weights cannot be used, see `import_weights`.
        DataError: If `data` cannot be read, or holds volumes.
        UsageError: If its CT are in HU and `reading` gives no window.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size must be {SIZES[0]} to {SIZES[1]}: got {size}")
    require_empty(out)
    found = import_weights(net_g, net_d, ct_is=ct_is)
    config = DataConfig(
        size=round(size / MARGIN),
        channels=found.shape.channels,
        ct_window="wide",
        pixel_mm=1.0,
        match_heights=False,
        flip=True,
    )
    store = None if data is None else prepare(data, config, progress=progress, reading=reading)
    if store is not None and store.manifest.heights:
        what = "expected the pictures that the networks were trained on, found volumes"
        raise DataError(what, file=data, fix="give a data folder of images, or leave out --data")
    intensities = _intensities(store, reading, data)
    about = _about(found, config, intensities, Scale(size, store.scale.pixel_mm if store else None))
    about["provenance"]["ct_is"] = ct_is
    if store is not None:
        about["training"] = _statistics(found, store, intensities["ct"].get("HU"))
        counts = {m: store.count("train", m) for m in MODALITIES}
        about["provenance"] |= {"data": store.fingerprint, "images": counts}
    networks: dict[str, nn.Module] = {
        GENERATOR_FILES[direction]: network for direction, network in found.generators.items()
    }
    networks |= {DISCRIMINATOR_FILES[m]: network for m, network in found.discriminators.items()}
    write_model(out, networks, about)
    return ImportSummary(
        **asdict(found.shape),
        discriminators=bool(found.discriminators),
        measured=store is not None,
    )


def _about(
    found: Imported, config: DataConfig, intensities: Intensities, scale: Scale
) -> dict[str, Any]:
    """What `model.json` says as long as no data are known."""
    network = NetworkConfig(
        generator="resnet",
        blocks=found.shape.blocks,
        filters=found.shape.filters,
        upsample="deconvolution",
        skips=False,
        discriminator_filters=found.discriminator_filters or 64,  # the reference's default
        initialisation="normal",
    )
    return {
        "network": network.model_dump(),
        "data": config.model_dump(),
        "scale": asdict(scale),
        "intensities": {
            modality: {encoding: asdict(each) for encoding, each in maps.items()}
            for modality, maps in intensities.items()
        },
        "training": {},
        "provenance": {
            "imported_from": REFERENCE,
            "weights": found.sha256,
            "ctmr": version("ctmr"),
            "torch": torch.__version__,
        },
    }


def _intensities(store: Store | None, reading: Reading, data: Path | None) -> Intensities:
    """What grey values mean to the networks: those of 8 bits always, others as far as data or a window tell."""
    maps: Intensities = {m: {"8-bit": PICTURE} for m in MODALITIES}
    if store is not None:
        maps = {m: maps[m] | store.intensities[m] for m in MODALITIES}
    window = None if reading.ct_values is None else window_of(reading.ct_values)
    if window is not None:
        return maps | {"ct": {"HU": Intensity("HU", window), "8-bit": PICTURE}}
    if "HU" in maps["ct"]:
        raise UsageError(
            "expected pictures, as the networks were trained on: found CT in HU",
            file=data,
            fix="add --ct-values LOW:HIGH, the HU of black and white in those pictures",
        )
    return maps


def _statistics(found: Imported, store: Store, hu: Intensity | None) -> dict[str, Any]:
    """The training statistics; CT in HU are seen by the map `hu` in place of the store's window."""

    prepared = store.intensities["ct"].get("HU")

    def slices(modality: Modality, most: int) -> Iterator[FloatArray]:
        for image in training_slices(store, modality, most):
            if modality == "ct" and hu is not None and prepared is not None:
                yield hu.to_unit(prepared.from_unit(image))
            else:
                yield image

    return training_statistics(slices, found.generators["ct-to-mr"], found.generators["mr-to-ct"])
