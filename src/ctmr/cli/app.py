"""The application: every command, and what is done before one of them runs."""

import atexit
import gc
import logging
import os
import platform
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from ctmr.cli.data import audit, fetch, prepare, synth
from ctmr.cli.evaluate import evaluate, report
from ctmr.cli.help import show_help
from ctmr.cli.models import export, import_weights, models
from ctmr.cli.output import fail, is_launched, say, speaks
from ctmr.cli.train import demo, train
from ctmr.cli.translate import translate
from ctmr.cli.view import view
from ctmr.errors import UsageError
from ctmr.system.parallel import end_with

# What typer raises where the command line is wrong; it has no public name for it.
_WRONG_USAGE: Any = typer.BadParameter.__base__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Translate head scans between CT and MRI; train on scans that do not pair. Research use only.",
)


def _pytorch() -> str:
    try:
        import torch
    except ModuleNotFoundError:
        return "no PyTorch"
    gpu = torch.cuda.is_available()
    return f"PyTorch {torch.__version__}, {torch.cuda.get_device_name() if gpu else 'CPU'}"


def _print_version(wanted: bool) -> None:
    """Print the versions that matter for a result, and what PyTorch, where it is installed, runs on."""
    if not wanted:
        return
    say(
        f"ctmr {version('ctmr')}, Python {platform.python_version()},"
        f" ONNX Runtime {version('onnxruntime')}, {_pytorch()}"
    )
    raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of ctmr, Python and PyTorch, and the device.",
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


app.command(epilog="Example: ctmr demo --out runs/demo --minutes 7")(demo)
app.command(epilog="Example: ctmr synth heads --subjects 24 --size 128")(synth)
app.command(epilog="Example: ctmr audit DATA --out checks/audit.json --clean DATA-clean")(audit)
app.command(epilog="Example: ctmr prepare DATA STORE --preset small")(prepare)
app.command(epilog="Example: ctmr train DATA --out runs/first --preset small --epochs 20")(train)
app.command(epilog="Example: ctmr translate scan.nii.gz ct.nii.gz --to ct")(translate)
app.command(epilog="Example: ctmr view --runs runs")(view)
app.command(epilog="Example: ctmr models head")(models)
app.command(epilog="Example: ctmr export runs/first first-onnx --format onnx")(export)
app.command(
    epilog="Example: ctmr import-weights latest_net_G_A.pth latest_net_G_B.pth OUT --ct-is A"
)(import_weights)
app.command(epilog="Example: ctmr evaluate runs/first heads/test")(evaluate)
app.command(epilog="Example: ctmr report runs/first")(report)
app.command(epilog="Example: ctmr fetch kaggle ct-mri")(fetch)
app.command("help", epilog="Example: ctmr help settings")(show_help)


class _Plain(logging.Formatter):
    """Lines that only inform have no word before them. Not rich's handler, which breaks lines after 80 letters in a pipe."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).removeprefix("INFO: ")


class _Once(logging.Filter):
    """Lets a warning through once: a scan is read twice, to check it and to use it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it was not said before."""
        text = record.getMessage()
        said = record.levelno == logging.WARNING and text in self._seen
        self._seen.add(text)
        return not said


def main() -> None:
    """Entry point of `ctmr`."""
    # Waiting threads spin for a moment only, then sleep: as fast alone, and many times faster where another job has
    # a core. Read by the OpenMP library when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if is_launched():
        end_with(os.getppid())
    if is_launched() or any(word.startswith("--devices") for word in sys.argv):
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what broke is told in one line
    # Python would look for garbage at its end, for an eighth of a second.
    atexit.register(gc.freeze)
    lines = logging.StreamHandler(sys.stderr)
    lines.addFilter(_Once())
    lines.setFormatter(_Plain("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING if speaks() else logging.CRITICAL, handlers=[lines])
    # How many scans lie where; what the demo is at; what a training or translation runs on.
    for name in ("ctmr.found", "ctmr.demo", "ctmr.runs") if speaks() else ():
        logging.getLogger(name).setLevel(logging.INFO)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.exit(app(prog_name="ctmr", standalone_mode=False))
    except _WRONG_USAGE as error:
        if len(sys.argv) == 1:  # the message is the help
            error.show()
            sys.exit(error.exit_code)
        what = " ".join(error.format_message().split()).rstrip(".")
        command = error.ctx.command_path if error.ctx else "ctmr"
        usage = UsageError(what[:1].lower() + what[1:], fix=f"see {command} --help")
        sys.exit(fail(usage, "--json" in sys.argv))
