"""What the command line shows: results, progress bars, tables, and every error in one line."""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from ctmr.errors import CtmrError, ResourceError, printable

Bar = Callable[[int, int], None]


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
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(fail(_as_ours(error), as_json)) from error
    if as_json:
        print(json.dumps(outcome))


def fail(error: CtmrError, as_json: bool) -> int:
    """Show an error in one line, and as JSON if asked for; return its exit code."""
    print(f"error[{error.code}]: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps(error.as_json()))
    return error.exit_code


def _as_ours(error: BaseException) -> CtmrError:
    """The error as one with a code and a fix; the traceback of a bug goes to a file."""
    if isinstance(error, CtmrError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted at once", fix="run it again")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return ResourceError("out of memory", fix="use a smaller data.size or train.batch_size")
    with tempfile.NamedTemporaryFile(
        "w", prefix="ctmr-crash-", suffix=".txt", delete=False, encoding="utf-8"
    ) as crash:
        crash.write("".join(traceback.format_exception(error)))
    what = " ".join(f"unexpected {type(error).__name__}: {error}".split())
    return CtmrError(printable(what), fix=f"report it with {crash.name}")


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Bar]]:
    """Progress bars on stderr, if it is a terminal: call with a label, then with done and total."""
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
        disable=not sys.stderr.isatty(),
    ) as progress:

        def start(label: str) -> Bar:
            task = progress.add_task(label, total=None, note="")

            def show(done: int, total: int, note: str = "") -> None:
                progress.update(task, completed=done, total=total, note=note)

            return show

        yield start


def train_bar(
    progress: Callable[[str], Callable[..., None]],
) -> Callable[[Mapping[str, float], int], None]:
    """An observer of training that shows losses and speed."""
    show = progress("training")

    def observe(row: Mapping[str, float], total: int) -> None:
        show(
            int(row["step"]),
            total,
            f"G {row['loss_g']:.3f}  D_ct {row['loss_d_ct']:.3f}  D_mr {row['loss_d_mr']:.3f}"
            f"  {row['seconds_per_step']:.2f} s/step",
        )

    return observe


def say(text: str) -> None:
    print(text)


def some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def print_evaluation(summary: Mapping[str, Any]) -> None:
    """The table of an evaluation: a row for each direction and method."""
    from rich.console import Console
    from rich.table import Table

    for direction, figures in summary["directions"].items():
        names = [
            n for n in ("mae", "mae_soft", "mae_bone", "mae_air", "psnr", "ssim") if n in figures
        ]
        table = Table(title=f"{direction}, {summary['patients']} patients, unit {figures['unit']}")
        for column in ("method", *names):
            table.add_column(column, justify="left" if column == "method" else "right")
        for method, its in {"model": figures, **figures["naive"]}.items():
            table.add_row(method, *(_summary_text(its.get(name), name) for name in names))
        Console(width=max(100, Console().width)).print(table)
        for method, its in figures["difference"].items():
            low, high = its["ci95"]
            say(f"{method}: its MAE less the model's {its['mean']:.1f} [{low:.1f}, {high:.1f}]")
    say(f"{summary['notice']}")


def _summary_text(its: Mapping[str, Any] | None, name: str) -> str:
    if its is None:
        return "-"
    if name != "mae":
        return f"{its['mean']:.3f}" if name == "ssim" else f"{its['mean']:.1f}"
    return f"{its['mean']:.1f} [{its['ci95'][0]:.1f}, {its['ci95'][1]:.1f}]"
