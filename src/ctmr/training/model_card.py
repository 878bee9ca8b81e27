"""Where a run and its model come from: what they say of their settings, data, machine and versions."""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from ctmr.config import Config
from ctmr.cyclegan.networks import Generator
from ctmr.cyclegan.state import TrainState
from ctmr.data.store import Store, evenly
from ctmr.models.quality import (
    describe,
    difference,
    head_in,
    training_distribution,
    training_ranges,
)
from ctmr.models.torch_engine import run_generator
from ctmr.training.distributed import Runtime
from ctmr.types import MODALITIES, FloatArray, Modality


def run_about(
    config: Config, store: Store, runtime: Runtime, sources: Mapping[str, str]
) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: settings, data, and all that exactness depends on.

    Args:
        config: Of the run.
        store: The user's slices.
        runtime: What trains.
        sources: Hashes of what else is trained on.
    """
    data = store.fingerprint
    if sources:
        whole = json.dumps({"data": data, **sources}, sort_keys=True)
        data = hashlib.sha256(whole.encode()).hexdigest()
    return {
        "config": config.model_dump(),
        "data": data,
        "exact": {
            "ctmr": version("ctmr"),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "device": runtime.device_name(),
            "precision": runtime.precision,
            "threads": torch.get_num_threads(),
            "processes": runtime.processes.count,
        },
    }


def model_about(about: Mapping[str, Any], store: Store, state: TrainState) -> dict[str, Any]:
    """What `model.json` says beside the hashes of its files."""
    return {
        "network": about["config"]["network"],
        "data": about["config"]["data"],
        "scale": asdict(store.scale),
        "intensities": {
            modality: {encoding: asdict(intensity) for encoding, intensity in by_encoding.items()}
            for modality, by_encoding in store.intensities.items()
        },
        "training": training_statistics(partial(training_slices, store), *state.translators()),
        "provenance": {
            "config": about["config"],
            "data": store.fingerprint,
            "images": {m: store.count("train", m) for m in ("ct", "mr")},
            "overlap": store.manifest.overlap,
            "let_in": store.manifest.let_in,
            "steps": state.step,
            **about["exact"],
        },
    }


Slices = Callable[[Modality, int], Iterable[FloatArray]]
"""Up to so many evenly spaced training images (H, W, C) in [-1, 1] of a modality."""
Cycle = Callable[[FloatArray], FloatArray]
# Most training images looked at for the ranges; more change the percentiles little.
MAX_IMAGES = 500
# Training images translated there and back to know the usual cycle error.
MAX_CYCLED_IMAGES = 8


def training_statistics(slices: Slices, ct_to_mr: Generator, mr_to_ct: Generator) -> dict[str, Any]:
    """What `quality` compares an input with, by modality, as `model.json` has it."""
    cycles: dict[Modality, Cycle] = {
        "ct": lambda image: run_generator(mr_to_ct, run_generator(ct_to_mr, image)),
        "mr": lambda image: run_generator(ct_to_mr, run_generator(mr_to_ct, image)),
    }
    statistics: dict[str, Any] = {}
    for modality in MODALITIES:
        features = [describe(image) for image in slices(modality, MAX_IMAGES)]
        statistics[modality] = {
            "ranges": training_ranges(features),
            "cycle_error": _typical_cycle_error(
                slices(modality, MAX_CYCLED_IMAGES), cycles[modality]
            ),
            "distribution": asdict(training_distribution(features)),
        }
    return statistics


def _typical_cycle_error(images: Iterable[FloatArray], cycle: Cycle) -> float:
    """The largest cycle error that is not remarkable: half as much again as the worst of a few training images."""
    return 1.5 * max(
        float(difference(cycle(image), image)[head_in(image)].mean()) for image in images
    )


def training_slices(store: Store, modality: Modality, most: int) -> Iterator[FloatArray]:
    """Pick up to `most` evenly spaced training images of a modality."""
    for place in evenly(store.count("train", modality), most):
        yield store.slice("train", modality, place)
