#!/usr/bin/env python3
"""Make the folder of the model that ctmr ships from a training of `train_bundled.py`.

    bundle.py STATE OUT --anatomies ANATOMIES --real FOLDER [--leave-out NAME ...] [--cormack NAME ...] [--about FILE.json]

STATE is the `state.pt` of the training. What its card knows of usual scans comes from rendered pairs of ANATOMIES and from
the real scans in FOLDER, of which only statistics are kept. The page `README.md` in OUT stays, if it was written by hand.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ctmr.config import PRESETS
from ctmr.cyclegan.networks import UNet
from ctmr.data.known import HEAD_MM2
from ctmr.errors import CtmrError
from ctmr.imaging.image import Image, Scan
from ctmr.imaging.intensity import MR_UNITS, Intensity, ct_window
from ctmr.imaging.label_maps import require_scan
from ctmr.imaging.modality import as_modality
from ctmr.imaging.resampling import MARGIN, Scale
from ctmr.imaging.volume import Volume
from ctmr.io.listing import find_scans
from ctmr.io.reading import Reading
from ctmr.io.scan import read_with_series
from ctmr.models.card import Card
from ctmr.models.export import onnx_files
from ctmr.models.folder import read_model, write_files
from ctmr.models.quality import (
    Distribution,
    Usual,
    describe,
    difference,
    head_in,
    training_distribution,
    training_ranges,
)
from ctmr.models.torch_engine import run_generator
from ctmr.synthetic.anatomies import Anatomy, cached_anatomies
from ctmr.synthetic.pairs import render_pair
from ctmr.translation.preprocessing import Preprocessor
from ctmr.types import DIRECTION_TO, DIRECTIONS, MODALITIES, OTHER, Direction, FloatArray, Modality
from train_bundled import FILTERS, SHAPE, label_maps

SEED = 1  # the training has seed 0: these pairs are no pairs of it
SLICES = 40  # of a real volume
CYCLED = 8  # rendered and real images each, translated there and back
PERCENTILES = (0.5, 99.5)  # of the head, of MR pictures
GREY_OF_WHITE_MATTER = 20_000.0  # of a rendered MR as a picture of 16 bits
# Cormack units, which give soft tissue more room, and HU (Rorden et al. 2012).
CORMACK = (0, 900, 3100, 6000), (-1000, -100, 100, 3000)
WHAT = "U-Nets trained on rendered pairs of 20 label maps of whole heads; they saw no real scan"
LIMITS = (
    "research use only; lesions can vanish or appear",
    "adult heads from the vertex to below the orbits, slice by slice, at 1 mm",
    "MR of any contrast in, T1-weighted MR without contrast agent out",
    "not compared with scans of children, after surgery, or with implants",
)


class Looks(NamedTuple):
    """Images (H, W, C) in [-1, 1] of a modality, as a model sees them."""

    rendered: list[FloatArray]
    real: list[FloatArray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--anatomies", type=label_maps, help="folder of label maps")
    parser.add_argument("--real", type=Path, help="folder of real scans, for statistics")
    parser.add_argument("--leave-out", nargs="*", default=[], help="parts of names of such scans")
    parser.add_argument("--cormack", nargs="*", default=[], help="parts of names in Cormack units")
    parser.add_argument("--about", type=Path, help="JSON object that is added to the provenance")
    parser.add_argument("--pairs", type=int, default=300)
    options = parser.parse_args()
    state = torch.load(options.state, weights_only=True)
    generators: dict[Direction, UNet] = {d: UNet(1, FILTERS) for d in DIRECTIONS}
    for direction, generator in generators.items():
        generator.load_state_dict(state["averages"][direction])
        generator.eval().requires_grad_(False).half().float()  # as it is stored
    pairs = _pairs(
        cached_anatomies(options.anatomies),
        options.pairs,
    )
    card = _card()
    looks, names = _looks(card, pairs, _volumes(options))
    training = {m: _usual(looks[m], generators, m) for m in MODALITIES}
    about = card | {
        "training": {m: asdict(usual) for m, usual in training.items()},
        "provenance": {
            "directions": list(DIRECTIONS),
            "what": WHAT,
            "licence": "Apache-2.0",
            "limits": list(LIMITS),
            "script": "benchmarks/train_bundled.py",
            "steps": state["step"],
            "hours": round(state["seconds"] / 3600, 2),
            "maps": _maps_hash(options.anatomies or "synthetic"),
            "statistics": {
                "rendered": {m: len(looks[m].rendered) for m in MODALITIES},
                "real": {m: len(looks[m].real) for m in MODALITIES},
                "scans": names,
            },
            "ctmr": version("ctmr"),
            "torch": torch.__version__,
            **(json.loads(options.about.read_text()) if options.about else {}),
        },
    }
    write_files(options.out, onnx_files(generators, 1, half=True), about)
    made = read_model(options.out).card
    size = sum(path.stat().st_size for path in options.out.iterdir())
    print(json.dumps({"sha256": made.sha256, "mb": round(size / 1e6, 2)}))


def _card() -> dict[str, Any]:
    """What the card says before any statistics."""
    default = PRESETS["default"]
    network = default.network.model_copy(update={"filters": FILTERS})
    return {
        "network": network.model_dump(),
        "data": default.data.model_dump(),
        "scale": asdict(Scale(round(MARGIN * default.data.size), default.data.pixel_mm)),
        "head_mm2": HEAD_MM2,
        "mirror": True,
        "intensities": {
            "ct": {"HU": asdict(ct_window(default.data.ct_window))},
            "mr": {
                "MR": asdict(MR_UNITS),
                "8-bit": asdict(Intensity("grey", (0.0, 255.0), percentiles=PERCENTILES)),
                "16-bit": asdict(Intensity("grey", (0.0, 65535.0), percentiles=PERCENTILES)),
            },
        },
    }


def _pairs(anatomies: Sequence[Anatomy], count: int) -> list[dict[Modality, Image]]:
    """Rendered pairs as pictures with a spacing."""
    found: list[dict[Modality, Image]] = []
    for number in range(count):
        pair = render_pair(anatomies, SHAPE, SEED, number)
        mm = (pair.pixel_mm, pair.pixel_mm)
        mr = np.rint(pair.mr * GREY_OF_WHITE_MATTER).clip(0, 65535).astype(np.float32)
        found.append({"ct": Image(pair.ct, "HU", 16, mm), "mr": Image(mr, "grey", 16, mm)})
    return found


def _looks(
    card: dict[str, Any],
    pairs: Sequence[dict[Modality, Image]],
    volumes: Iterable[tuple[str, Volume, Modality]],
) -> tuple[dict[Modality, Looks], list[str]]:
    """What the model sees of rendered and of real scans, prepared as in a translation; and the names of the latter."""
    anything = Usual({}, 1.0, Distribution((0.0,) * 7, ((0.0,) * 7,) * 7))
    about = {"format": 2, "sha256": "0" * 64, "provenance": {}, "files": {}}
    usual = {m: asdict(anything) for m in MODALITIES}
    preprocessor = Preprocessor(Card.model_validate(card | about | {"training": usual}))

    def seen(scan: Scan, modality: Modality) -> list[FloatArray]:
        made = preprocessor.prepare(scan, modality, anyway=True)
        chosen = made.kept[:: max(1, len(made.kept) // SLICES)]
        return [made.window(made.batch([k])[0]) for k in chosen]

    looks = {m: Looks([x for pair in pairs for x in seen(pair[m], m)], []) for m in MODALITIES}
    names = []
    for name, volume, modality in volumes:
        looks[modality].real.extend(seen(volume, modality))
        names.append(f"{name} ({modality})")
    return looks, names


def _volumes(options: argparse.Namespace) -> Iterator[tuple[str, Volume, Modality]]:
    """The real scans in a folder, if one is given; what is none, or left out, is named."""
    folder, reading = options.real, Reading(irregular=True)
    for found in find_scans(folder) if folder is not None else ():
        name = found.below(folder)
        if any(part in name for part in options.leave_out):
            print(f"left out: {name}")
            continue
        try:
            scan, _ = read_with_series(found.path, reading=reading, files=found.series)
            require_scan(scan)
            if isinstance(scan, Volume):
                if any(part in name for part in options.cormack):
                    scan = replace(scan, array=np.interp(scan.array, *CORMACK).astype(np.float32))
                volume, modality = _modality_of(scan)
                yield name, volume, modality
        except CtmrError as error:
            print(f"left out: {name}: {error.what}")


def _modality_of(volume: Volume) -> tuple[Volume, Modality]:
    try:
        return as_modality(volume, "ct"), "ct"
    except CtmrError:
        return as_modality(volume, "mr"), "mr"


def _usual(looks: Looks, generators: dict[Direction, UNet], modality: Modality) -> Usual:
    """The statistics of a modality."""
    there = generators[DIRECTION_TO[OTHER[modality]]]
    back = generators[DIRECTION_TO[modality]]
    features = [describe(image) for images in looks for image in images]
    errors = []
    for images in looks:
        for image in images[:: max(1, len(images) // CYCLED)]:
            mirrored = run_generator(there, image[:, ::-1])[:, ::-1]
            made = (run_generator(there, image) + mirrored) * np.float32(0.5)
            cycled = run_generator(back, made.astype(np.float32))
            errors.append(float(difference(cycled, image)[head_in(image)].mean()))
    return Usual(training_ranges(features), 1.5 * max(errors), training_distribution(features))


def _maps_hash(anatomies: str) -> str:
    """SHA-256 over the hashes of the label maps, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(Path(anatomies).glob("*.nii*")):
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


if __name__ == "__main__":
    main()
