#!/usr/bin/env python3
"""How far exported networks are from float64, beside PyTorch's float32.

    export_parity.py [MODEL ...] [--engines onnx,openvino] [--out FILE.md]

Each MODEL (a run, a model folder, or a name) is exported in a temporary folder, and each of its generators runs on noise of
ten odd sizes, padded as a translation is. Without a MODEL every generator is taken untrained. The distance is the root mean square
over all pixels, in [-1, 1]; the share is the largest of the ten ratios to PyTorch's. The goal is 1.5, plus 1e-6.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ctmr.cyclegan.networks import Generator, Upsample, build_generator, initialise
from ctmr.models.engines import Engine, Network, graph_forward, run_batch
from ctmr.models.export import linked
from ctmr.models.folder import read_model, weights_of
from ctmr.models.torch_engine import network_by, onnx_graph
from ctmr.system.rng import stream, torch_stream
from ctmr.types import FloatArray

SIZES = [(65, 63), (97, 61), (71, 128), (101, 99), (131, 77), (83, 149), (111, 111), (149, 67)]
SIZES += [(173, 91), (127, 187)]
UNTRAINED: list[tuple[Literal["resnet", "resnet34", "resnet50", "unet"], Upsample, bool]] = [
    ("resnet", "nearest", False),
    ("resnet", "deconvolution", False),
    ("resnet34", "nearest", True),
    ("resnet34", "deconvolution", False),
    ("resnet50", "nearest", False),
    ("unet", "nearest", False),
]


def generators(models: list[str]) -> Iterator[tuple[str, Generator, int]]:
    """Name, generator and channels."""
    for model in models:
        found = read_model(Path(model))
        for direction, generator in found.generators.items():
            yield f"{Path(model).name}, {direction}", generator, found.card.data.channels
    if not models:
        for name, upsample, skips in UNTRAINED:
            made = build_generator(
                name, channels=1, filters=32, blocks=9, upsample=upsample, skips=skips
            )
            initialise(made, "uniform", torch_stream(0, name))
            label = f"{name}, {upsample}{', skips' if skips else ''}, untrained"
            yield label, made.eval().requires_grad_(False), 1


def distances(generator: Generator, channels: int, engines: list[Engine]) -> dict[str, list[float]]:
    """For PyTorch and each engine the distance from float64 at each size."""
    found: dict[str, list[float]] = {name: [] for name in ("torch", *engines)}
    sides = (generator.multiple, generator.smallest)
    with tempfile.TemporaryDirectory() as place:
        weights, graph = Path(place, "net.safetensors"), Path(place, "net.onnx")
        weights.write_bytes(weights_of(generator))
        graph.write_bytes(
            linked(onnx_graph(generator, channels), weights.read_bytes(), weights.name)
        )
        ready = {"torch": network_by("torch", generator, channels, "float32")}
        ready |= {e: Network(graph_forward(e, graph, "float32"), *sides) for e in engines}
        exact = copy.deepcopy(generator).double()

        def in_double(images: FloatArray) -> FloatArray:
            with torch.inference_mode():
                made: FloatArray = exact(torch.from_numpy(images.astype(np.float64))).numpy()
            return made

        for size in SIZES:
            draw = stream(0, "parity", *size).uniform(-1, 1, (1, *size, channels))
            image = draw.astype(np.float32)
            truth = run_batch(Network(in_double, *sides), image)
            for name, network in ready.items():
                off = run_batch(network, image) - truth
                found[name].append(float(np.sqrt(np.square(off).mean())))
        ready.clear()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--engines", default="onnx,openvino")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    engines: list[Engine] = options.engines.split(",")
    titles = " | ".join(f"{e}: distance | share" for e in engines)
    lines = [f"| network | torch | {titles} |", "|---|---" + "|---|---" * len(engines) + "|"]
    for name, generator, channels in generators(options.models):
        found = distances(generator, channels, engines)
        cells = [f"{np.mean(found['torch']):.1e}"]
        for engine in engines:
            shares = [
                a / (b + 1e-6 / 1.5) for a, b in zip(found[engine], found["torch"], strict=True)
            ]
            cells += [f"{np.mean(found[engine]):.1e}", f"{max(shares):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
