"""Where a run and its model come from: what they say of their settings, data, machine and versions."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ctmr.config import RESUMABLE, Config, differing_keys
from ctmr.distributed import Runtime
from ctmr.engine import run_generator
from ctmr.errors import UsageError
from ctmr.quality import (
    training_distribution,
    training_features,
    training_ranges,
    typical_cycle_error,
)
from ctmr.state import TrainState
from ctmr.store import Store
from ctmr.volume import MODALITIES


def run_about(config: Config, store: Store, runtime: Runtime) -> dict[str, Any]:
    """What a checkpoint says beside its tensors: settings, data, and all that exactness depends on."""
    return {
        "config": config.model_dump(),
        "data": store.fingerprint,
        "exact": {
            "ctmr": version("ctmr"),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "processor": torch.backends.cpu.get_cpu_capability(),
            "device": runtime.device_name(),
            "precision": runtime.precision,
            "threads": torch.get_num_threads(),
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
        "training": _training_statistics(store, state),
        "provenance": {
            "config": about["config"],
            "data": store.fingerprint,
            "images": {m: store.count("train", m) for m in ("ct", "mr")},
            "steps": state.step,
            **about["exact"],
        },
    }


def _training_statistics(store: Store, state: TrainState) -> dict[str, Any]:
    """What `quality` compares an input with."""
    ct_to_mr, mr_to_ct = state.translators()
    cycles = {
        "ct": lambda image: run_generator(mr_to_ct, run_generator(ct_to_mr, image)),
        "mr": lambda image: run_generator(ct_to_mr, run_generator(mr_to_ct, image)),
    }
    said: dict[str, Any] = {}
    for modality in MODALITIES:
        features = training_features(store, modality)
        said[modality] = {
            "ranges": training_ranges(features),
            "cycle_error": typical_cycle_error(store, modality, cycles[modality]),
            "distribution": asdict(training_distribution(features)),
        }
    return said


def check_config(file: Path, old: Config, new: Config) -> None:
    """Refuse to resume with settings that would make it another run.

    Raises:
        UsageError: Naming each setting that may not change, its old and its new value.
    """
    changed = differing_keys(old, new)
    frozen = {key: values for key, values in changed.items() if key not in RESUMABLE}
    if frozen:
        said = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in frozen.items())
        raise UsageError(
            f"a resumed run keeps its settings; changed are {said}",
            file=file,
            fix="leave them as they were, or start a new run with --init",
        )
