"""Training: the loop around `train_step`, from a data folder to a run folder."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ctmr.config import Config, TrainConfig
from ctmr.cyclegan.cyclegan import check_size
from ctmr.cyclegan.step import train_step, update_average
from ctmr.data.dataset import loader
from ctmr.data.known import Known
from ctmr.errors import CtmrError, ResourceError, UsageError
from ctmr.io.reading import DEFAULT, Reading
from ctmr.system.memory import peak_bytes
from ctmr.training.processes import launched
from ctmr.training.run_folder import RunFolder
from ctmr.training.signals import StopSignals
from ctmr.training.start import Order, Start, start
from ctmr.types import WantedDevice

Batch = tuple[Tensor, Tensor, Known]
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
    device: WantedDevice = "auto",
    observer: Observer | None = None,
) -> TrainSummary:
    """Train both translators on a data folder, in a run folder that can be resumed.

    Args:
        config: Every setting; of a resumed run only those in `RESUMABLE` may have changed.
        data: Data folder (`ctmr help data-folders`) or a store made by `prepare`.
        run: Where everything is written.
        pairs: Folder with `ct/` and `mr/`: scans of the same names are registered pairs, which are trained on too.
        anatomies: Folder of label maps of whole heads for rendered pairs; None draws them from procedural heads.
        resume: Go on from the newest checkpoint, exactly.
        init: Model whose networks are the start, with a fresh optimiser ("loaded" in the paper).
        stop_after: Stop when the model has had this many updates; the schedule stays.
        reading: What to believe of scans that say too little.
        overwrite: Replace files of others in the place of a run's files; never a run, and never a folder.
        device: `auto` is a GPU where there is one. How many processes there are is said by what started this one.
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
    order = Order(
        config,
        Path(data),
        folder,
        pairs=None if pairs is None else Path(pairs),
        anatomies=None if anatomies is None else Path(anatomies),
        init=None if init is None else Path(init),
        resume=resume,
        stop_after=stop_after,
        reading=reading,
        overwrite=overwrite,
        device=device,
    )
    if launched() is None:
        order.require_new()
    with StopSignals() as signals, ExitStack() as held:
        with signals.at_once(folder.path):
            begun = start(order, held)
        state, records, (last, total) = begun.state, begun.records, begun.ends
        processes = begun.runtime.processes
        started, durations = time.perf_counter(), []
        row: dict[str, float] = {}
        for row in _updates(begun, config, signals):
            durations.append(row["seconds_per_step"])
            if observer is not None:
                observer(row, total)
            if records is not None:
                try:
                    records.add(state, row, signals)
                except CtmrError as error:
                    signals.agree(processes, error)  # which the others are waiting in
        if state.step < last and signals.received is not None:
            processes.first(lambda: records.stop(state, row, signals) if records else None)
            signals.require_none(f"step {state.step} of {total}", folder.path)
    peak = peak_bytes()
    return TrainSummary(
        run=str(folder.path),
        steps=state.step,
        seconds=round(time.perf_counter() - started, 3),
        seconds_per_step_median=round(statistics.median(durations), 4) if durations else None,
        peak_rss_mb=round(peak / 2**20, 1) if peak is not None else None,
        resumed_from=begun.resumed_from,
    )


def _updates(begun: Start, config: Config, signals: StopSignals) -> Iterator[dict[str, float]]:
    """Do one update for each batch and yield its row; while a GPU works, with what was read last."""
    state, runtime, samples = begun.state, begun.runtime, begun.samples
    images, knots, ranks = samples.unpaired.images, samples.knots, runtime.processes
    row, busy, waited, steps = dict[str, float](), 0.0, 0.0, 0
    total = begun.ends[1]
    before = time.perf_counter()
    for x, y, known in _batches(begun, config.train, signals):
        waited, steps = waited + time.perf_counter() - before, steps + 1
        rate = state.set_rate(learning_rate(state.step, total, config.train.learning_rate))
        x, y = runtime.to_device(x), runtime.to_device(y)
        known = {name: runtime.to_device(image) for name, image in known.items()}
        values = train_step(
            state,
            x,
            y,
            config.loss,
            runtime.autocast,
            config.seed,
            known=known,
            knots=knots,
            ranks=ranks,
        )
        update_average(state, config.train.ema)
        due = not row or state.step in begun.ends or state.step % config.train.log_every == 0
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


def _batches(begun: Start, train: TrainConfig, signals: StopSignals) -> Iterator[Batch]:
    """This process's part of each batch; ends at the same step in all, once one was asked to stop.

    Raises:
        CtmrError: If a batch cannot be made.
        ToldElsewhere: If another process has failed.
    """
    runtime = begun.runtime
    batches = loader(
        begun.samples,
        train.batch_size,
        begun.state.step,
        begun.ends[0],
        train.workers,
        pin_memory=runtime.device.type == "cuda",
        part=runtime.processes.part,
    )
    batch: Batch | None
    while True:
        failed = None
        try:
            batch = next(batches, None)
        except CtmrError as error:
            batch, failed = None, error
        if signals.noted is not None and isinstance(failed, ResourceError):
            failed = None  # a signal to the whole group can end a loader worker before the step
        signals.agree(runtime.processes, failed)
        if batch is None or signals.received is not None:
            return
        yield batch
