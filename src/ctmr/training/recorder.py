"""What a training leaves behind at the end of a step, in which order, and what may fail without ending it."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ctmr.config import Config
from ctmr.cyclegan.state import TrainState
from ctmr.data.dataset import UnpairedSlices
from ctmr.data.pairs import Pair
from ctmr.errors import CtmrError, DivergedError, OutputError, Stopped
from ctmr.models.engines import Precision
from ctmr.models.folder import save_model
from ctmr.reporting.run_report import PAPER_STEPS, write_report
from ctmr.system.files import write_json
from ctmr.training import checkpoint
from ctmr.training.model_card import model_about
from ctmr.training.run_folder import RunFolder
from ctmr.training.samples import Samples
from ctmr.training.signals import StopSignals
from ctmr.training.validation import Selection

logger = logging.getLogger(__name__)

LOSSES = ("loss_g", "loss_d_ct", "loss_d_mr", "grad_g", "grad_d")


class Records:
    """Writes the log, checkpoints, evaluations, sample grids, the model and the report of a run.

    The checkpoint comes first, so that an evaluation that fails or a killed process loses nothing; what a process had no
    time for after its last checkpoint is done when the run goes on. Grids, TensorBoard and the report may fail: training
    goes on, with a warning.

    Args:
        folder: Locked by this process.
        dataset: What is trained on.
        config: Of the run.
        ends: The step at which this training ends, and that at which the schedule does.
        about: What checkpoints say beside the tensors.
        pairs: To evaluate by; may be none.
        precision: In which the model translates them.
    """

    def __init__(
        self,
        folder: RunFolder,
        dataset: UnpairedSlices,
        config: Config,
        ends: tuple[int, int],
        *,
        about: Mapping[str, Any],
        pairs: Sequence[Pair],
        precision: Precision,
    ) -> None:
        self._folder, self._dataset, self._config = folder, dataset, config
        self._about = about
        self._last, self._total = ends
        self._samples = Samples(dataset.store, folder, config.train.tensorboard)
        self._selection = Selection(folder, dataset.store, pairs, precision)
        self._failed: set[str] = set()
        self._saved = -1  # step of the newest checkpoint

    def begin(self, state: TrainState) -> None:
        """Write what belongs to the step a training starts at and is not there yet."""
        step = state.step
        done = step >= self._last
        overlaps = [asdict(overlap) for overlap in self._dataset.store.overlap]
        if overlaps:
            self._try("list of leaks", lambda: write_json(self._folder.overlap, overlaps))
        if (done or self._draws(step)) and not self._samples.path(step).exists():
            self._try("sample grid", lambda: self._samples.draw(state))
        about = self._model_about(state) if done or step == 0 or self._evaluates(step) else {}
        if (step == 0 or self._evaluates(step)) and (done or not self._selection.has(step)):
            about = self._selection.evaluate(state, about)
        if done:
            self._write_model(state, about)

    def add(self, state: TrainState, row: Mapping[str, float], signals: StopSignals) -> None:
        """Write what belongs to a step that was just done; `row` is its line of the log.

        Raises:
            DivergedError: If a loss, a gradient or a weight is NaN or infinite; nothing but the log is written.
            OutputError: If a checkpoint or a model cannot be written, or the run folder is gone.
            Stopped: If a signal asks to stop and the checkpoint cannot be written.
        """
        step, train = state.step, self._config.train
        if not self._folder.is_there():
            self._rescue(state)
        self._require_finite(row)
        if step == self._total or step % train.log_every == 0:
            self._folder.append_log(row)
            self._try("TensorBoard", lambda: self._samples.log(row))
        ends = step == self._last or signals.received is not None
        asked = signals.take_request()
        evaluates = self._evaluates(step)
        writes = ends or asked or evaluates or step % train.checkpoint_every == 0
        if writes:
            self._save(state, signals, row)
        about = self._model_about(state) if writes else {}
        if evaluates:
            about = self._selection.evaluate(state, about)
        if step == self._last or self._draws(step):
            self._try("sample grid", lambda: self._samples.draw(state))
        if writes:
            self._write_model(state, about)

    def stop(self, state: TrainState, row: Mapping[str, float], signals: StopSignals) -> None:
        """Write a checkpoint and the model of the last step that was done, as a signal ends the training; see `add`."""
        if self._saved != state.step:
            self._save(state, signals, row)
            self._write_model(state, self._model_about(state))

    def _save(self, state: TrainState, signals: StopSignals, row: Mapping[str, float]) -> None:
        """Write a checkpoint; see `add`."""
        try:
            checkpoint.save(self._folder.checkpoints, state, self._about)
            self._saved = state.step
        except DivergedError:
            self._write_diverged(row)
            raise
        except OutputError as error:
            if signals.received is None:
                raise
            raise Stopped(
                f"stopped at step {state.step} by signal {signals.received} without a checkpoint"
                f" ({error.what})",
                file=self._folder.path,
                fix=error.fix,
                signal_number=signals.received,
                saved=False,
            ) from error

    def _model_about(self, state: TrainState) -> dict[str, Any]:
        return model_about(self._about, self._dataset.store, state)

    def _evaluates(self, step: int) -> bool:
        return step == self._total or (step > 0 and step % self._config.train.evaluate_every == 0)

    def _draws(self, step: int) -> bool:
        return step in PAPER_STEPS or step % self._config.train.sample_every == 0

    def _write_model(self, state: TrainState, about: dict[str, Any]) -> None:
        save_model(self._folder.model, state, about)
        self._try("report", lambda: write_report(self._folder.path))

    def _try(self, what: str, write: Callable[[], object]) -> None:
        """Write what a training can do without; say it once if that fails."""
        try:
            write()
        except (CtmrError, OSError) as error:
            if what not in self._failed:
                logger.warning("the training goes on without its %s: %s", what, error)
            self._failed.add(what)

    def _rescue(self, state: TrainState) -> NoReturn:
        """Save the state elsewhere, as the run's folder was removed, renamed or unmounted."""
        place = Path(tempfile.mkdtemp(prefix=f"ctmr-rescue-{self._folder.path.name}-"))
        path = checkpoint.save(place, state, self._about)
        raise OutputError(
            f"the run folder is gone; the state of step {state.step} is saved as {path}",
            file=self._folder.path,
            fix="bring the folder back, move that file into its checkpoints/ and go on with --resume",
        )

    def _require_finite(self, row: Mapping[str, float]) -> None:
        """Refuse losses and norms of gradients that are NaN or infinite."""
        if math.isfinite(sum(row[key] for key in LOSSES)):
            return
        self._folder.append_log({key: value for key, value in row.items() if math.isfinite(value)})
        self._write_diverged(row)
        raise DivergedError(
            f"training diverged: {', '.join(f'{key} {value:g}' for key, value in row.items())};"
            " checkpoints are from before",
            file=self._folder.path,
            fix="start again with a smaller train.learning_rate",
        )

    def _write_diverged(self, row: Mapping[str, float]) -> None:
        """Write `diverged_step_N.json`: the row, and the images of the step."""
        step, size = int(row["step"]), self._config.train.batch_size
        record: dict[str, Any] = {
            key: value if math.isfinite(value) else str(value) for key, value in row.items()
        }
        entries = {m: self._dataset.store.entries("train", m) for m in ("ct", "mr")}
        samples = [self._dataset.pair(n) for n in range((step - 1) * size, step * size)]
        record["images"] = [
            {"ct": entries["ct"][ct].name, "mr": entries["mr"][mr].name} for ct, mr in samples
        ]
        with contextlib.suppress(OutputError):
            write_json(self._folder.path / f"diverged_step_{step}.json", record)
