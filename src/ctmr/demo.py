"""The whole system without data: a slice translated at once, then synthetic heads, training, errors against the truth, report."""

import logging
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ctmr.config import Config, load_config, with_steps
from ctmr.errors import printable
from ctmr.evaluation.evaluate import Evaluation, evaluate
from ctmr.io.scan import read_scan
from ctmr.models.bundle import HEAD, bundled_names
from ctmr.reporting.run_report import write_report
from ctmr.synthetic.data_folder import write_heads
from ctmr.system.ownership import require_own, write_own
from ctmr.training.run_folder import RunFolder
from ctmr.training.train import Observer, train
from ctmr.translation.preview import preview
from ctmr.translation.translator import load_model

SUBJECTS = 24  # for training, of each modality; half as many pairs
SIZE = 128
PATIENTS = r"(subject-\d+)"
TIMED_STEPS, WARM_UP = 12, 4
PREVIEW = "bundled.preview.png"  # what the model that comes with ctmr makes of a slice

logger = logging.getLogger(__name__)  # the command line shows it

Bar = Callable[[int, int], None]


def run_demo(
    out: Path,
    *,
    minutes: float,
    seed: int,
    overwrite: bool = False,
    progress: Callable[[str], Bar],
    observe: AbstractContextManager[Observer | None] | None = None,
) -> Evaluation:
    """Make heads in `out/data`, train for about `minutes` in `out`, evaluate against the truth, write the report.

    A slice is translated before by the model that comes with the package, if there is one, into `bundled.preview.png`.

    A few steps are timed once to fix the number of steps, which goes into `config.yaml`: nothing depends on the
    clock after that.

    Args:
        out: New run folder.
        minutes: Training time.
        seed: Of heads and training.
        overwrite: Replace files of others in the place of a run's files.
        progress: Makes a progress bar with a label.
        observe: Entered for the training, gives its observer.
    """
    folder = RunFolder(out)
    folder.require_new(overwrite=overwrite)
    require_own([out / PREVIEW], overwrite=overwrite)
    logger.info(
        "making %d + %d heads for training, %d for testing", SUBJECTS, SUBJECTS, SUBJECTS // 2
    )
    data = out / "data"
    write_heads(data, subjects=SUBJECTS, seed=seed, size=SIZE, progress=progress("heads"))
    if HEAD in bundled_names():
        _translate_at_once(data / "test" / "mr", out / PREVIEW, overwrite)
    config = load_config(
        "small",
        overrides=(
            f"seed={seed}",
            f"data.patient_pattern={PATIENTS}",
            "train.sample_every=250",
            "train.log_every=5",
        ),
    )
    config = with_steps(config, steps_in(minutes, config, data), None)
    logger.info(
        "training %d steps; sample grids appear in %s",
        config.train.steps,
        printable(str(folder.samples)),
    )
    with observe or nullcontext() as observer:
        train(config, data, out, overwrite=overwrite, observer=observer)
    logger.info("comparing translations of unseen heads with the truth")
    found = evaluate(
        out,
        data / "test",
        out=out / "evaluation",
        progress=progress,
    )
    write_report(out)
    return found


def _translate_at_once(folder: Path, picture: Path, overwrite: bool) -> None:
    """Draw what the model that comes with the package makes of a slice in the middle of a head."""
    names = sorted(folder.glob("*.png"))
    scan = read_scan(names[len(names) // 2])
    done = load_model().translation(scan, "ct", quality="none", anyway=True)
    write_own(picture, preview(scan, done.scan, done.centre), overwrite=overwrite)
    logger.info(
        "translated a slice with the model that comes with ctmr: %s", printable(str(picture))
    )


def steps_in(minutes: float, config: Config, data: Path) -> int:
    """How many steps this machine does in that time, from timing a few in a folder beside the data."""
    durations: list[float] = []
    with tempfile.TemporaryDirectory(prefix=".timing-", dir=data.parent) as scratch:
        train(
            config,
            data,
            Path(scratch) / "timing",
            stop_after=TIMED_STEPS,
            observer=lambda row, _: durations.append(row["seconds_per_step"]),
        )
    per_step = statistics.median(durations[WARM_UP:])
    return max(TIMED_STEPS, round(60 * minutes / per_step))
