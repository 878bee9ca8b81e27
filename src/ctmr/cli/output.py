"""What the command line shows: results, progress bars, tables, and every error in one line."""

import errno
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from ctmr.errors import (
    OF_TRAINING,
    CtmrError,
    DataError,
    OutputError,
    ResourceError,
    ToldElsewhere,
    UsageError,
    printable,
)
from ctmr.system.memory import free_bytes, is_want_of_memory

RESEARCH_USE = "research use only: a translated image can add or remove disease"

Bar = Callable[[int, int], None]
Observer = Callable[[Mapping[str, float], int], None]
LINE_EVERY_S = 30

# What the system says of a path that cannot be read, and of one that cannot be written.
_UNREADABLE = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ESTALE),
)
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EPIPE)


class Interrupted(CtmrError):
    """Stopped by a signal at once."""

    code = "E130"
    exit_code = 130


@contextmanager
def outcome_of(as_json: bool, debug: bool) -> Iterator[dict[str, Any]]:
    """Run a command: its errors become one line and an exit code, its result one JSON object if asked for."""
    outcome: dict[str, Any] = {}
    try:
        yield outcome
        if as_json:
            say(json.dumps(outcome))
    except (typer.Exit, typer.Abort):
        raise
    except ToldElsewhere as error:
        raise typer.Exit(error.exit_code) from error
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(fail(_ctmr_error(error), as_json)) from error


def is_launched() -> bool:
    """Whether torch.distributed's launcher started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def speaks() -> bool:
    """Whether this is the only process, or the first of several, which speaks for all."""
    return not is_launched() or os.environ["RANK"] == "0"


def fail(error: CtmrError, as_json: bool) -> int:
    """Show an error in one line, and as JSON if asked for; return its exit code.

    Of processes that a launcher started on one machine, all find the same wrong with a command: the first says it.
    """
    if isinstance(error, UsageError) and is_launched() and os.environ["LOCAL_RANK"] != "0":
        return error.exit_code
    print(f"error[{error.code}]: {error}", file=sys.stderr)
    if as_json:
        with suppress(OutputError):
            say(json.dumps(error.as_json()))
    return error.exit_code


def _ctmr_error(error: BaseException) -> CtmrError:
    """The error as one with a code and a fix; the traceback of a bug goes to a file."""
    if isinstance(error, CtmrError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted at once", fix="run it again")
    if isinstance(error, ModuleNotFoundError) and error.name in OF_TRAINING:
        return UsageError(
            f"this command needs {error.name}, which is not installed",
            fix="pip install 'ctmr[train]'; without a GPU first pip install torch --index-url https://download.pytorch.org/whl/cpu",
        )
    if is_want_of_memory(error):
        free = free_bytes()
        left = "" if free is None else f": {free:,} bytes are free"
        return ResourceError(
            f"out of memory{left}", fix="use a smaller data.size or train.batch_size"
        )
    if isinstance(error, OSError) and error.errno in (*_UNREADABLE, *_UNWRITABLE):
        return _of_system(error)
    with tempfile.NamedTemporaryFile(
        "w", prefix="ctmr-crash-", suffix=".txt", delete=False, encoding="utf-8"
    ) as crash:  # for its owner alone
        crash.write(_without_texts(error))
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = f"unexpected {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    fix = f"report it with {crash.name}; --debug shows its text, which may name a patient"
    return CtmrError(what, fix=fix)


def _of_system(error: OSError) -> CtmrError:
    """What the system says of a file, where no module has said it better."""
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno in _UNREADABLE:
        what, fix = f"cannot read it ({error.strerror})", "check the path and its permissions"
        return DataError(what, file=file, fix=fix)
    what, fix = f"cannot write it ({error.strerror})", "check free space and permissions"
    return OutputError(what, file=file, fix=fix)


def _without_texts(error: BaseException | None) -> str:
    """The traceback of an error and of its causes without their texts and values, which may name a patient."""
    parts: list[str] = []
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{type(error).__name__}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(reversed(parts))


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Bar]]:
    """Progress bars on stderr, if it is a terminal: call with a label, then with done and total."""
    if not sys.stderr.isatty():

        def unseen(done: int, total: int, note: str = "") -> None:
            """Nobody looks, so rich need not be imported."""

        yield lambda label: unseen
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    ) as progress:

        def start(label: str) -> Bar:
            task = progress.add_task(label, total=None, note="")

            def show(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            return show

        yield start


@contextmanager
def training_shown(
    progress: Callable[[str], Callable[..., None]],
    stop_after: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Observer]:
    """An observer of training that shows step, losses and speed: as a bar, or without a terminal as lines on stderr.

    There is a line each 30 seconds, if a step ends, and one at the end.

    Args:
        progress: Makes a bar, as `progress_bars` gives it.
        stop_after: The step after which there are no more, if it is not the last of the schedule.
        clock: Seconds.
    """
    show, on_terminal = progress("training"), sys.stderr.isatty()
    unsaid, due, began = "", clock() + LINE_EVERY_S, (0, 0.0)

    def observe(row: Mapping[str, float], total: int) -> None:
        nonlocal unsaid, due, began
        step, last = int(row["step"]), min(total, stop_after or total)
        shown = {"G": "loss_g", "D_ct": "loss_d_ct", "D_mr": "loss_d_mr"}
        losses = [f"{name} {row[key]:.3f}" for name, key in shown.items() if row[key] != 0]
        note = "  ".join([*losses, f"{row['seconds_per_step']:.2f} s/step"])
        show(step, last, note)
        if on_terminal:
            return
        now = clock()
        began = began if began[0] else (step, now)
        # What lies between steps counts too: checkpoints, evaluations.
        pace = (now - began[1]) / (step - began[0]) if step > began[0] else row["seconds_per_step"]
        left = timedelta(seconds=round((last - step) * pace))
        unsaid = f"step {step} of {last}  {note}  {left} left"
        if now >= due:
            _to_stderr(unsaid)
            unsaid, due = "", now + LINE_EVERY_S

    try:
        yield observe
    finally:
        if unsaid:
            _to_stderr(unsaid)


def _to_stderr(line: str) -> None:
    """Print a line for whoever reads a log; a training does not end because nobody does."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line; a path in it cannot forge another.

    Raises:
        OutputError: If nobody reads it, or the disk it goes to is full.
    """
    try:
        print(printable(text), flush=True)
    except OSError as error:
        with suppress(OSError), Path(os.devnull).open("w") as nowhere:  # for what is left to print
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OutputError(
            f"cannot write to standard output ({error.strerror})",
            file="stdout",
            fix="check where it is piped to",
        ) from error
