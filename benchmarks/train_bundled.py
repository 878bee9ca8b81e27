#!/usr/bin/env python3
"""Train the model that ctmr ships: two U-Nets that see rendered pairs of label maps only, never a real scan.

    train_bundled.py ANATOMIES OUT [--minutes M] [--steps N] [--kept-out NAME ...]

ANATOMIES is a folder of label maps (`ctmr fetch anatomies`), or `synthetic`. A state is kept in OUT every few minutes, from
which the same command goes on. Both networks see the same pairs: MR -> CT learns HU, CT -> MR a T1-weighted image.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ctmr.cyclegan.losses import decoded
from ctmr.cyclegan.networks import UNet, initialise
from ctmr.data.known import TOP_OF_TRUE_MR, as_network_sees
from ctmr.imaging.intensity import CT_WINDOWS
from ctmr.synthetic.anatomies import Anatomy, cached_anatomies
from ctmr.synthetic.pairs import render_pair
from ctmr.system.rng import stream, torch_stream

SHAPE, BATCH, FILTERS, SEED = (224, 192), 2, 24, 0
RATE, WARM_UP, AVERAGE = 1.2e-3, 100, 0.998
KEEP_EVERY_S = 240
WINDOW = CT_WINDOWS["piecewise"]


class Stream(Dataset[tuple[Tensor, ...]]):
    """Sample n of the training: `(1, H, W)` each of MR, coded CT, HU, coded MR, and the weight of each pixel."""

    def __init__(self, anatomies: list[Anatomy], samples: int) -> None:
        self.anatomies, self.samples = anatomies, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(1)
        pair = render_pair(self.anatomies, SHAPE, SEED, number)
        rng = stream(SEED, "entry", number)
        mr = as_network_sees(rng, pair.mr, pair.head)
        ct = np.interp(pair.ct, [hu for hu, _ in WINDOW], [level for _, level in WINDOW])
        weight = np.where(_wider(pair.head), 1.0, 0.2)
        images = (mr, ct, pair.true_ct, 2 * pair.true_mr / TOP_OF_TRUE_MR - 1, weight)
        return tuple(torch.from_numpy(np.asarray(image, np.float32)[None]) for image in images)


def _wider(head: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(ndimage.binary_dilation(head, iterations=6))


def losses(made: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """L1 plus half the mean difference of neighbouring pixels' steps."""
    loss = ((made - truth).abs() * weight).mean()
    for axis in (2, 3):
        steps = (made.diff(dim=axis) - truth.diff(dim=axis)).abs()
        loss = loss + 0.25 * (steps * weight.narrow(axis, 1, SHAPE[axis - 2] - 1)).mean()
    return loss


def coded(hu: Tensor) -> Tensor:
    """Values in [-1, 1] of HU."""
    code = torch.full_like(hu, WINDOW[0][1])
    for (low, a), (high, b) in pairwise(WINDOW):
        code = code + (hu.clamp(low, high) - low) * ((b - a) / (high - low))
    return code


def label_maps(text: str) -> str | None:
    """The folder of label maps meant on the command line; None for `synthetic`, procedural heads."""
    return None if text == "synthetic" else text


def schedule(done: float) -> float:
    """Factor of the learning rate after a share of the training: cosine."""
    return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * min(done, 1.0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("anatomies", type=label_maps)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument(
        "--minutes", type=float, default=110, help="stop after so many, to go on later"
    )
    parser.add_argument("--kept-out", nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    anatomies = [a for a in cached_anatomies(options.anatomies) if a.name not in options.kept_out]
    options.out.mkdir(parents=True, exist_ok=True)
    state = options.out / "state.pt"
    networks = {name: UNet(1, FILTERS) for name in ("mr-to-ct", "ct-to-mr")}
    averages = {name: UNet(1, FILTERS) for name in networks}
    for network, average in zip(networks.values(), averages.values(), strict=True):
        nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
        initialise(network, "uniform", torch_stream(SEED, "weights"))
        average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(
        [p for network in networks.values() for p in network.parameters()], RATE, weight_decay=1e-4
    )
    begin, seconds = 0, 0.0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        begin, seconds = kept["step"], kept["seconds"]
        optimiser.load_state_dict(kept["optimiser"])
        for name in networks:
            networks[name].load_state_dict(kept["networks"][name])
            averages[name].load_state_dict(kept["averages"][name])
    started = last_kept = time.monotonic()

    def keep(step: int) -> None:
        content = {
            "step": step,
            "seconds": seconds + time.monotonic() - started,
            "networks": {name: network.state_dict() for name, network in networks.items()},
            "averages": {name: average.state_dict() for name, average in averages.items()},
            "optimiser": optimiser.state_dict(),
        }
        torch.save(content, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)

    log = (options.out / "log.jsonl").open("a")
    for step, batch in enumerate(batches(anatomies, begin, options.steps), begin):
        mr, ct, hu, true_mr, weight = (
            image.to(memory_format=torch.channels_last) for image in batch
        )
        for group in optimiser.param_groups:
            group["lr"] = RATE * schedule(step / options.steps) * min(1, (step + 1) / WARM_UP)
        code = networks["mr-to-ct"](mr)
        loss = losses(decoded(code, WINDOW) / 1000, hu / 1000, weight)
        loss = loss + 0.15 * losses(code, coded(hu), weight)
        row = {"step": step, "ct": loss.item()}
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if step % 3 == 0:  # CT -> MR needs a third of the steps
            loss = losses(networks["ct-to-mr"](ct), true_mr, weight)
            row["mr"] = loss.item()
            torch.autograd.backward(loss)
        for network in networks.values():
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for name, average in averages.items():
                for mean, value in zip(
                    average.parameters(), networks[name].parameters(), strict=True
                ):
                    mean.lerp_(value, 1 - decay)
        if step % 20 == 0:
            row["seconds"] = round(time.monotonic() - started, 1)
            print(json.dumps(row), file=log, flush=True)
        if time.monotonic() - last_kept > KEEP_EVERY_S:
            keep(step + 1)
            last_kept = time.monotonic()
        if time.monotonic() - started > 60 * options.minutes:
            break
    keep(step + 1)


def batches(anatomies: list[Anatomy], begin: int, end: int) -> Iterator[list[Tensor]]:
    """The batches of steps `begin` to `end`."""
    numbers = range(begin * BATCH, end * BATCH)
    dataset = Stream(anatomies, end * BATCH)
    return iter(DataLoader(dataset, BATCH, sampler=numbers, num_workers=1, prefetch_factor=3))


if __name__ == "__main__":
    main()
