"""From what was asked for to the first step: a run that is made or loaded, by one process or several together."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ctmr.config import Config, flat, schedule_steps
from ctmr.cyclegan.state import TrainState, new_state
from ctmr.data.copies import ANATOMIES, PAIRS, kept
from ctmr.data.known import TrainingSamples, training_samples
from ctmr.data.prepare import prepare
from ctmr.data.store import Store
from ctmr.errors import CheckpointError
from ctmr.io.reading import Reading
from ctmr.models.bundle import HEAD
from ctmr.models.folder import load_weights
from ctmr.system.files import require_writable
from ctmr.training import checkpoint
from ctmr.training.distributed import Runtime
from ctmr.training.model_card import run_about
from ctmr.training.processes import require_parts
from ctmr.training.recorder import Records
from ctmr.training.run_folder import RunFolder, check_config
from ctmr.training.validation import pairs_to_choose_by
from ctmr.types import WantedDevice

logger = logging.getLogger(__name__)
told = logging.getLogger("ctmr.runs")  # what the command line says before any work

# What checkpoints did not say when there was one value of it.
_ONCE = {"processes": 1}


@dataclass(frozen=True)
class Order:
    """What a training was asked for; see `ctmr.training.train.train`."""

    config: Config
    data: Path
    folder: RunFolder
    pairs: Path | None
    anatomies: Path | None
    init: Path | None
    resume: bool
    stop_after: int | None
    reading: Reading
    overwrite: bool
    device: WantedDevice

    def require_new(self) -> None:
        """Refuse to train over an earlier run, or over files of others."""
        inputs = (self.data, self.init, self.pairs, self.anatomies)
        if not self.resume:
            places = [place for place in inputs if place is not None]
            self.folder.require_new(overwrite=self.overwrite, inputs=places)


@dataclass(frozen=True)
class Start:
    """A training that can do its first step.

    Attributes:
        runtime: What trains.
        state: At a step's end.
        samples: What is trained on.
        ends: The step at which this training ends, and that at which the schedule does.
        records: Writes the run's files; None in all processes but the first.
        resumed_from: Step of the checkpoint it goes on from.
    """

    runtime: Runtime
    state: TrainState
    samples: TrainingSamples
    ends: tuple[int, int]
    records: Records | None
    resumed_from: int | None


def start(order: Order, held: ExitStack) -> Start:
    """Make a run, from fresh or a model's weights, or load it where it was.

    Args:
        order: What was asked for.
        held: Gets what is to be let go at the end: the run's lock, the other processes.

    Raises:
        CtmrError: See `ctmr.errors`.
    """
    config, folder = order.config, order.folder
    runtime = Runtime(config.train.precision, order.device)
    processes = runtime.processes
    held.enter_context(processes.ending())
    if processes.rank == 0:
        told.info("training on %s", runtime)
    versions = {"ctmr": version("ctmr"), "torch": torch.__version__}
    processes.require_same({**flat(config.model_dump()), "--resume": order.resume, **versions})
    state = new_state(config, runtime.device)
    processes.first(lambda: _check(order, state, processes.count))
    store, samples, sources = processes.in_turn(lambda: _samples(order))
    about = run_about(config, store, runtime, sources)
    processes.require_same({"data": about["data"]})
    total = schedule_steps(config, samples.unpaired.images)
    ends = (total if order.stop_after is None else min(total, order.stop_after), total)

    def begin() -> tuple[Records, int | None]:
        chosen = pairs_to_choose_by(order.data, config.data.patient_pattern, order.reading)
        held.enter_context(folder.locked())
        resumed_from = None
        if order.resume:
            resumed_from = _resume(order, state, about)
        else:
            _make(order, state, about)
        folder.write_config(config)  # last: from here on there is a run that can be resumed
        records = Records(
            folder,
            samples.unpaired,
            config,
            ends,
            about=about,
            pairs=chosen,
            precision=runtime.precision,
        )
        records.begin(state)
        return records, resumed_from

    records, resumed_from = processes.first(begin) or (None, None)
    processes.share(state, folder.path)
    return Start(runtime, state, samples, ends, records, resumed_from)


def _check(order: Order, state: TrainState, processes: int) -> None:
    """Refuse what can be known before any work.

    Raises:
        UsageError: If the images of a step cannot be shared evenly, or the folder holds a run.
        OutputError: If the folder cannot be written.
    """
    require_parts(order.config.train.batch_size, processes)
    order.require_new()
    require_writable(order.folder.path, checkpoint.space_needed(state))


def _samples(order: Order) -> tuple[Store, TrainingSamples, dict[str, str]]:
    """The store, what is trained on, and the hashes of what it comes from beside the store."""
    config, pairs, anatomies = order.config, order.pairs, order.anatomies
    store = prepare(order.data, config.data, reading=order.reading)
    if store.path == order.data:
        pairs = pairs or kept(store.path, PAIRS)
        anatomies = anatomies or kept(store.path, ANATOMIES)
    return store, *training_samples(config, store, pairs, anatomies, order.reading)


def _make(order: Order, state: TrainState, about: Mapping[str, Any]) -> None:
    """Write the first checkpoint of a new run."""
    # Preparing takes time, in which another process can train.
    order.require_new()
    checkpoint.remove_all(order.folder.checkpoints)  # of one that was killed before its start
    if order.init is not None or order.config.train.start == "bundled":
        load_weights(order.init or Path(HEAD), state, order.config)
    checkpoint.save(order.folder.checkpoints, state, about)
    order.folder.remove_others()


def _resume(order: Order, state: TrainState, about: Mapping[str, Any]) -> int:
    """Load the newest checkpoint, say what is no longer the same, and cut the log to it."""
    folder = order.folder
    check_config(folder.config, folder.read_config(), order.config)
    saved = checkpoint.resume(folder.checkpoints, state)
    if saved.data != about["data"]:
        raise CheckpointError(
            "the training data or their preparation have changed since the checkpoint",
            file=folder.path,
            fix="restore the data, give the reading options of the first call, or start a new run with"
            " --init",
        )
    for key, now in about["exact"].items():
        was = saved.exact.get(key, _ONCE.get(key))
        if was != now:
            logger.warning("exactness lost: %s was %s and is %s", key, was, now)
    folder.cut_log(state.step)
    return state.step
