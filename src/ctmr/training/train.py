"""Training: the loop around `train_step`, from a data folder to a run folder."""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctmr.config import Config, schedule_steps
from ctmr.cyclegan.cyclegan import check_size
from ctmr.cyclegan.state import TrainState, new_state
from ctmr.cyclegan.step import train_step, update_average
from ctmr.data.copies import ANATOMIES, PAIRS, kept
from ctmr.data.dataset import loader
from ctmr.data.known import Known, TrainingSamples, training_samples
from ctmr.data.prepare import prepare
from ctmr.errors import CheckpointError, ResourceError, UsageError
from ctmr.io.reading import DEFAULT, Reading
from ctmr.models.bundle import HEAD
from ctmr.models.folder import load_weights
from ctmr.system.files import require_writable
from ctmr.system.memory import peak_bytes
from ctmr.training import checkpoint
from ctmr.training.distributed import Runtime
from ctmr.training.model_card import run_about
from ctmr.training.recorder import Records
from ctmr.training.run_folder import RunFolder, check_config
from ctmr.training.signals import StopSignals
from ctmr.training.validation import pairs_to_choose_by

logger = logging.getLogger(__name__)
Observer = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class TrainSummary:
    """What a training did.

    Attributes:
        run: Its folder.
        steps: Updates the model has had in all.
        seconds: Of this call, from its first update to its last.
        seconds_per_step_median: Of this call; None if it did none.
        peak_rss_mb: Highest memory of this process so far; None if the system does not say.
        resumed_from: Step of the checkpoint it went on from.
    """

    run: str
    steps: int
    seconds: float
    seconds_per_step_median: float | None
    peak_rss_mb: float | None
    resumed_from: int | None


def learning_rate(step: int, total: int, rate: float) -> float:
    """The rate of update `step` of `total`: constant for the first half, then linear to zero.

    With the paper's 200 epochs it is `rate` up to epoch 100, half of it at 150 and 1/100 at 199 (Li 2023, sec. 3).
    """
    decay = total - total // 2
    return rate * min(1.0, (total - step) / decay)


def train(
    config: Config,
    data: Path | str,
    run: Path | str,
    *,
    pairs: Path | str | None = None,
    anatomies: Path | str | None = None,
    resume: bool = False,
    init: Path | str | None = None,
    stop_after: int | None = None,
    reading: Reading = DEFAULT,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> TrainSummary:
    """Train both translators on a data folder, in a run folder that can be resumed.

    Args:
        config: Every setting; of a resumed run only those in `RESUMABLE` may have changed.
        data: Data folder (docs/data.md) or a store made by `prepare`.
        run: Where everything is written.
        pairs: Folder with `ct/` and `mr/`: scans of the same names are registered pairs, which are trained on too.
        anatomies: Folder of label maps of whole heads for rendered pairs; None draws them from procedural heads.
        resume: Go on from the newest checkpoint, exactly.
        init: Model whose networks are the start, with a fresh optimiser ("loaded" in the paper).
        stop_after: Stop when the model has had this many updates; the schedule stays.
        reading: What to believe of scans that say too little.
        overwrite: Replace files of others in the place of a run's files; never a run, and never a folder.
        observer: Called after each update with its row of the log and the length of the schedule.

    Raises:
        CtmrError: See `ctmr.errors`; `Stopped` after SIGINT or SIGTERM, with a checkpoint written.
    """
    check_size(config)
    if resume and init is not None:
        raise UsageError("--resume and --init exclude each other", fix="leave out one of them")
    if stop_after is not None and stop_after < 1:
        raise UsageError(f"--stop-after must be at least 1: found {stop_after}", fix="raise it")
    folder = RunFolder(Path(run))
    inputs = [Path(place) for place in (data, init, pairs, anatomies) if place is not None]
    if not resume:
        folder.require_new(overwrite=overwrite, inputs=inputs)
    with StopSignals() as signals, ExitStack() as held:
        with signals.at_once(folder.path):
            # Start fresh, from a model's weights, or where the run was.
            runtime = Runtime(config.train.precision)
            state = new_state(config, runtime.device)
            require_writable(folder.path, checkpoint.space_needed(state))
            store = prepare(Path(data), config.data, reading=reading)
            chosen = pairs_to_choose_by(Path(data), config.data.patient_pattern, reading)
            if store.path == Path(data):
                pairs, anatomies = (
                    pairs or kept(store.path, PAIRS),
                    anatomies or kept(store.path, ANATOMIES),
                )
            samples, sources = training_samples(config, store, pairs, anatomies, reading)
            held.enter_context(folder.locked())
            if not resume:
                # Preparing takes time, in which another process can train.
                folder.require_new(overwrite=overwrite, inputs=inputs)
                checkpoint.remove_all(folder.checkpoints)  # of one that was killed before its start
            about = run_about(config, store, runtime, sources)
            resumed_from = None
            if resume:
                check_config(folder.config, folder.read_config(), config)
                resumed_from = _resume(folder, state, about)
            elif init is not None or config.train.start == "bundled":
                load_weights(Path(init or HEAD), state, config)
            if not resume:
                checkpoint.save(folder.checkpoints, state, about)
                folder.remove_others()
            folder.write_config(config)  # last: from here on there is a run that can be resumed

            # The schedule and the batches are functions of the step.
            images = samples.unpaired.images
            total = schedule_steps(config, images)
            last = total if stop_after is None else min(total, stop_after)
            ends = (last, total)
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
        batches = loader(
            samples,
            config.train.batch_size,
            state.step,
            last,
            config.train.workers,
            pin_memory=runtime.device.type == "cuda",
        )
        started, durations = time.perf_counter(), []
        row: dict[str, float] = {}
        try:
            for row in _updates(state, batches, config, runtime, ends, samples):
                durations.append(row["seconds_per_step"])
                if observer is not None:
                    observer(row, total)
                records.add(state, row, signals)
                if state.step < last:
                    signals.require_none(f"step {state.step} of {total}", folder.path)
        except ResourceError:
            # A signal to the whole group can end a loader worker before the step.
            if signals.received is None or not row:
                raise
            records.save(state, signals, row)
            signals.require_none(f"step {state.step} of {total}", folder.path)
    peak = peak_bytes()
    return TrainSummary(
        run=str(folder.path),
        steps=state.step,
        seconds=round(time.perf_counter() - started, 3),
        seconds_per_step_median=round(statistics.median(durations), 4) if durations else None,
        peak_rss_mb=round(peak / 2**20, 1) if peak is not None else None,
        resumed_from=resumed_from,
    )


def _updates(
    state: TrainState,
    batches: Iterator[tuple[Tensor, Tensor, Known]],
    config: Config,
    runtime: Runtime,
    ends: tuple[int, int],
    samples: TrainingSamples,
) -> Iterator[dict[str, float]]:
    """Do one update for each batch and yield its row; while a GPU works, with what was read last.

    Args:
        ends: The step at which this training ends, and that at which the schedule does.
        samples: What the batches are of.
    """
    images, knots = samples.unpaired.images, samples.knots
    row, busy, waited, steps = dict[str, float](), 0.0, 0.0, 0
    total = ends[1]
    before = time.perf_counter()
    for x, y, known in batches:
        waited, steps = waited + time.perf_counter() - before, steps + 1
        rate = state.set_rate(learning_rate(state.step, total, config.train.learning_rate))
        x, y = runtime.to_device(x), runtime.to_device(y)
        known = {name: runtime.to_device(image) for name, image in known.items()}
        values = train_step(
            state, x, y, config.loss, runtime.autocast, config.seed, known=known, knots=knots
        )
        update_average(state, config.train.ema)
        due = not row or state.step in ends or state.step % config.train.log_every == 0
        if due or not runtime.queues:
            row = {name: float(value) for name, value in values.items()}
            busy += time.perf_counter() - before
            row["seconds_per_step"] = round(busy / steps, 4)
            row["data_wait"] = round(waited / busy, 4)
            busy, waited, steps = 0.0, 0.0, 0
        else:
            busy += time.perf_counter() - before
        epoch = (state.step - 1) * config.train.batch_size // images
        yield {"step": state.step, "epoch": epoch, "lr": rate, **row}
        before = time.perf_counter()


def _resume(folder: RunFolder, state: TrainState, about: Mapping[str, Any]) -> int:
    """Load the newest checkpoint, say what is no longer the same, and cut the log to it."""
    saved = checkpoint.resume(folder.checkpoints, state)
    if saved.data != about["data"]:
        raise CheckpointError(
            "the training data or their preparation have changed since the checkpoint",
            file=folder.path,
            fix="restore the data, give the reading options of the first call, or start a new run with"
            " --init",
        )
    for key, now in about["exact"].items():
        if saved.exact.get(key) != now:
            logger.warning("exactness lost: %s was %s and is %s", key, saved.exact.get(key), now)
    folder.cut_log(state.step)
    return state.step
