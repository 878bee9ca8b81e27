"""The command line: text in, one library call, text out. The only place that prints."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ctmr.console import (
    fail,
    outcome_of,
    print_audit,
    print_evaluation,
    progress_bars,
    say,
    say_correlations,
    some,
    train_bar,
)
from ctmr.errors import DataError, UsageError

if TYPE_CHECKING:
    from ctmr.config import Config

# What typer raises where the command line is wrong; it has no public name for it.
_WRONG_USAGE: Any = typer.BadParameter.__base__
RESEARCH_USE = "research use only: a translated image can add or remove disease"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Translate brain scans between CT and MRI, learnt from scans that do not pair."
    " Research use only.",
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on the last line.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that ctmr did not write; never inputs, runs, stores or data folders.",
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeat.")
]
Preset = Annotated[str | None, typer.Option(help="paper, default or small. [default: default]")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.yaml", help="Settings over the preset.")
]


@app.command(epilog="Example: ctmr demo --out runs/demo --minutes 7")
def demo(
    out: Annotated[Path, typer.Option(help="New run folder.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(help="Training time.")] = 7.0,
    seed: Annotated[int, typer.Option(help="Of heads and training.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the whole system without data: synthetic heads, training, errors against the truth, report."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.demo import run_demo

        with progress_bars() as progress:
            found = run_demo(
                out, minutes=minutes, seed=seed, overwrite=overwrite, say=say, progress=progress
            )
        print_evaluation(found.summary)
        say(f"report: {out / 'report.html'}")
        outcome.update(found.summary, run=str(out), report=str(out / "report.html"))


@app.command(epilog="Example: ctmr synth heads --subjects 24 --size 128")
def synth(
    out: Annotated[Path, typer.Argument(help="New data folder.")],
    subjects: Annotated[int, typer.Option(help="Training subjects of each modality.")] = 24,
    image_format: Annotated[
        Literal["png", "nifti", "dicom"], typer.Option("--format", help="Of the scans.")
    ] = "png",
    seed: Annotated[int, typer.Option(help="The same seed gives the same heads.")] = 0,
    lesions: Annotated[float, typer.Option(help="Share of subjects with lesions.")] = 0.0,
    size: Annotated[int, typer.Option(help="Side of an axial slice in pixels.")] = 256,
    sequence: Annotated[Literal["t1", "t2"], typer.Option(help="MR weighting.")] = "t1",
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write synthetic heads as a data folder: unpaired training scans, paired test scans."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.synth import write_heads

        with progress_bars() as progress:
            counts = write_heads(
                out,
                subjects=subjects,
                seed=seed,
                lesions=lesions,
                size=size,
                sequence=sequence,
                image_format=image_format,
                progress=progress("heads"),
            )
        for folder, count in counts.items():
            say(f"{out / folder}: {count} scans")
        outcome.update(out=str(out), images=counts)


@app.command(epilog="Example: ctmr audit DATA --out checks/audit.json --clean DATA-clean")
def audit(
    data: Annotated[Path, typer.Argument(help="Data folder: trainA trainB testA testB.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Findings; a page with pictures lies beside.")
    ] = Path("audit.json"),
    clean: Annotated[
        Path | None,
        typer.Option(metavar="OUT_DIR", help="New folder for a cleaned copy without leaks."),
    ] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for what is wrong with a data folder: leaks, copies, the wrong modality, lost HU, marks."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.audit import Faulty, page_of
        from ctmr.audit import audit as audit_data
        from ctmr.config import load_config

        pattern = load_config("default", None, settings or []).data.patient_pattern
        with progress_bars() as progress:
            report = audit_data(
                data,
                out,
                clean,
                patient_pattern=pattern,
                overwrite=overwrite,
                progress=progress("looking"),
            )
        print_audit(report)
        say(f"report: {page_of(out)}")
        if clean is not None:
            say(f"cleaned copy: {clean} ({report['cleaned']['left_out']} files left out)")
        if report["errors"]:
            raise Faulty(data, out, report)
        outcome.update(report)


@app.command(epilog="Example: ctmr prepare DATA STORE --preset small")
def prepare(
    data: Annotated[Path, typer.Argument(help="Data folder: trainA trainB testA testB.")],
    store: Annotated[Path, typer.Argument(help="New folder for the prepared slices.")],
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prepare a data folder once; ctmr train takes the store in place of DATA."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.config import load_config
        from ctmr.prepare import prepare as prepare_data

        resolved = load_config(preset or "default", config, settings or [])
        with progress_bars() as progress:
            made = prepare_data(data, resolved.data, store, progress("preparing"))
        say(repr(made))
        outcome.update(store=str(made.path), fingerprint=made.fingerprint)


@app.command(epilog="Example: ctmr train DATA --out runs/first --preset small --epochs 20")
def train(
    data: Annotated[
        Path | None, typer.Argument(help="Data folder: trainA trainB testA testB, or a store.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    steps: Annotated[int | None, typer.Option(help="Length of the schedule in steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the schedule in epochs.")] = None,
    stop_after: Annotated[
        int | None, typer.Option(help="Stop at this step; the schedule stays.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Start from a model's four networks.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show every setting and stop.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train both translators; Ctrl-C stops with a checkpoint, --resume goes on exactly."""
    with outcome_of(as_json, debug) as outcome:
        resolved = _train_config(out, resume, preset, config, settings or [], (steps, epochs))
        if print_config:
            from ctmr.config import config_yaml

            for line in config_yaml(resolved).splitlines():
                say(line)
            outcome.update(resolved.model_dump())
            return
        if data is None or out is None:
            missing = "DATA" if data is None else "--out"
            raise UsageError(f"{missing} is missing", fix="ctmr train DATA --out RUN")
        from ctmr.training import train as train_model

        with progress_bars() as progress:
            summary = train_model(
                resolved,
                data,
                out,
                resume=resume,
                init=init,
                stop_after=stop_after,
                overwrite=overwrite,
                observer=train_bar(progress),
            )
        outcome.update(vars(summary))
        say(", ".join(f"{key} {value}" for key, value in outcome.items()))
        say(f"report: {out / 'report.html'}")
        say(RESEARCH_USE)


@app.command(epilog="Example: ctmr translate scans/ translated/ --model runs/first --to mr")
def translate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="An image, a NIfTI file, a folder with a DICOM series, or a tree of these.",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="The same for the translation.")],
    model: Annotated[Path, typer.Option(help="Run or model folder.")],
    to: Annotated[Literal["mr", "ct"], typer.Option(help="Modality wanted.")],
    quality: Annotated[
        Literal["fast", "full", "none"],
        typer.Option(
            help="How much is translated back to judge it; full also writes maps of doubt."
        ),
    ] = "fast",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do about unusable inputs.")
    ] = "stop",
    like: Annotated[
        Path | None,
        typer.Option(metavar="DICOM_DIR", help="Write NIfTI inputs as DICOM, as this series is."),
    ] = None,
    geometry: Annotated[
        Literal["sform", "qform", "RAS", "LAS", "LPS"] | None,
        typer.Option(
            help="Believe this of NIfTI headers that contradict themselves or say nothing."
        ),
    ] = None,
    irregular: Annotated[
        bool, typer.Option("--irregular", help="Accept DICOM series with gaps or uneven slices.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Accept what looks like another modality, or like no head."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Leave what an earlier call wrote of the same scans."),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB", help="Choose scans by their path below INPUT; * matches / too."
        ),
    ] = None,
    engine: Annotated[
        Literal["torch", "openvino", "onnx"] | None,
        typer.Option(help="What runs the networks; by default the fastest that is installed."),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of the multiplications; auto is bfloat16 where that is fast."),
    ] = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Translate scans: same names, same grids, a JSON beside each that says how far to trust it."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.batch import translate_files
        from ctmr.jobs import Reading
        from ctmr.translate import load_model

        translator = load_model(model, engine=engine, precision=precision)
        with progress_bars() as progress:
            summary = translate_files(
                translator,
                source,
                output,
                to,
                quality=quality,
                on_error=on_error,
                reading=Reading(geometry, irregular, anyway, like),
                resume=resume,
                overwrite=overwrite,
                only=only,
                progress=progress("translating"),
            )
        kept = f", {summary.kept} kept from before," if resume else ""
        say(f"{summary.written} scans written to {output}{kept} in {summary.seconds:.1f} s")
        if summary.warned:
            say(f"{len(summary.warned)} with a quality warning: {some(summary.warned)}")
        if quality != "none":
            say_correlations(translator.correlations(to))
        say(RESEARCH_USE)
        outcome.update(vars(summary), output=str(output))
        if summary.skipped:
            raise DataError(
                f"{len(summary.skipped)} inputs were skipped: {some(summary.skipped)}",
                file=source,
                fix="restore these files and translate them again",
            )


@app.command(epilog="Example: ctmr evaluate runs/first heads/test")
def evaluate(
    model: Annotated[Path, typer.Argument(help="Run or model folder.")],
    pairs: Annotated[
        Path, typer.Argument(help="Folder with ct/ mr/ and optionally mask/, or a data folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="[default: MODEL/evaluation]")] = None,
    direction: Literal["both", "ct-to-mr", "mr-to-ct"] = "both",
    answers: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Other translations of PAIRS to compare; repeat."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure translations: with the truth of PAIRS, or without it on the test scans of a data folder."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.evaluation import evaluate as evaluate_model

        folders = dict(_answer(item) for item in answers or [])

        place = out or model / "evaluation"
        with progress_bars() as progress:
            found = evaluate_model(
                model,
                pairs,
                out=place,
                direction=direction,
                answers=folders,
                overwrite=overwrite,
                progress=progress,
            )
        print_evaluation(found.summary)
        say(f"written to {place}")
        outcome.update(found.summary)


@app.command(epilog="Example: ctmr report runs/first")
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html of a run: curves, grids over time, settings and figures on one page."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.report import write_report

        page = write_report(run, overwrite=overwrite)
        say(f"report: {page}")
        outcome.update(report=str(page))


@app.command(epilog="Example: ctmr fetch kaggle ct-mri")
def fetch(
    dataset: Annotated[Literal["kaggle"], typer.Argument(help="The paper's data set.")],
    out: Annotated[Path, typer.Argument(help="New data folder.")] = Path("kaggle-ct-mri"),
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download the paper's data set from Kaggle into a data folder."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.fetch import fetch_kaggle

        say(f"data folder: {fetch_kaggle(out)}")
        outcome.update(dataset=dataset, out=str(out))


def _answer(item: str) -> tuple[str, Path]:
    """The name and the folder in `NAME=FOLDER`."""
    name, equals, folder = item.partition("=")
    if not (name and equals and folder):
        raise UsageError(
            f"expected NAME=FOLDER, found {item!r}", fix="write for example --answers other=results"
        )
    return name, Path(folder)


def _train_config(
    out: Path | None,
    resume: bool,
    preset: str | None,
    file: Path | None,
    settings: list[str],
    length: tuple[int | None, int | None],
) -> "Config":
    """The configuration asked for; a resumed run starts from its own."""
    from ctmr.config import load_config, overlaid, with_steps
    from ctmr.run_folder import RunFolder

    if resume and out is not None and preset is None and file is None:
        resolved = overlaid(RunFolder(out).read_config(), settings)
    else:
        resolved = load_config(preset or "default", file, settings)
    return with_steps(resolved, *length)


class _Plain(logging.Formatter):
    """Lines that only inform have no word before them."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).removeprefix("INFO: ")


def main() -> None:
    """Entry point of `ctmr`."""
    # Waiting threads spin for a moment only, then sleep: as fast alone, and many times faster where another job has
    # a core. Read by the OpenMP library when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Plain("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    logging.getLogger("ctmr.found").setLevel(logging.INFO)  # how many scans lie where
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
