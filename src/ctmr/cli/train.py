"""Commands that train."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctmr.cli.devices import processes_wanted
from ctmr.cli.options import (
    Anatomies,
    Anyway,
    ConfigFile,
    CtValues,
    Debug,
    Device,
    Devices,
    GeometryOption,
    Irregular,
    Json,
    Overwrite,
    Pairs,
    Preset,
    SeriesOption,
    Settings,
    reading_of,
)
from ctmr.cli.output import (
    RESEARCH_USE,
    outcome_of,
    progress_bars,
    say,
    speaks,
    training_shown,
)
from ctmr.cli.tables import print_demo
from ctmr.errors import UsageError

if TYPE_CHECKING:
    from ctmr.config import Config


def demo(
    out: Annotated[Path, typer.Option(help="New run folder.")] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option(help="Minutes of training.")] = 7.0,
    seed: Annotated[int, typer.Option(help="Seed of the heads and of the training.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Try the whole program on synthetic heads.

    Trains, compares translations of unseen heads with the truth, and writes a report.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.demo import run_demo

        with progress_bars() as progress:
            found = run_demo(
                out,
                minutes=minutes,
                seed=seed,
                overwrite=overwrite,
                progress=progress,
                observe=training_shown(progress),
            )
        print_demo(found.metrics)
        say(f"report: {out / 'report.html'}")
        outcome.update(found.summary, run=str(out), report=str(out / "report.html"))


def train(
    data: Annotated[
        Path | None, typer.Argument(help="Data folder: trainA trainB testA testB, or a store.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training in steps.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the training in epochs.")] = None,
    stop_after: Annotated[
        int | None, typer.Option(help="Stop at this step, without changing the schedule.")
    ] = None,
    pairs: Pairs = None,
    anatomies: Anatomies = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Start from the networks of a trained model."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    resume_or_start: Annotated[
        bool,
        typer.Option(
            "--resume-or-start", help="Continue the run in --out, or start it if there is none."
        ),
    ] = False,
    devices: Devices = None,
    device: Device = "auto",
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings and exit.")
    ] = False,
    geometry: GeometryOption = None,
    irregular: Irregular = False,
    anyway: Anyway = False,
    series: SeriesOption = None,
    ct_values: CtValues = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train both directions, from scans that do not pair.

    Ctrl-C stops with a checkpoint; --resume continues exactly where it was.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.training.run_folder import RunFolder

        if resume_or_start and out is not None:
            resume = resume or RunFolder(out).holds_run()
        resolved = _train_config(out, resume, preset, config, settings or [], (steps, epochs))
        if print_config:
            from ctmr.config import config_yaml

            for line in config_yaml(resolved).splitlines():
                say(line)
            outcome.update(resolved.model_dump())
            return
        data = data or pairs  # the scans of pairs are scans too
        if data is None or out is None:
            missing = "DATA" if data is None else "--out"
            fix = "ctmr train DATA --out RUN, or --pairs PAIRS in place of DATA"
            raise UsageError(f"{missing} is missing", fix=fix)
        reading = reading_of(geometry, irregular, anyway, series, ct_values)
        first = speaks()
        if (several := processes_wanted(devices, device)) is not None:
            from ctmr.training.launch import launch
            from ctmr.training.processes import require_parts

            require_parts(resolved.train.batch_size, several.processes)
            raise typer.Exit(launch(sys.argv[1:], several.processes))
        from ctmr.training.train import train as train_model

        if config is not None and not resume and first:
            RunFolder(out).require_new(overwrite=overwrite, inputs=[data, config])
        with progress_bars() as progress, training_shown(progress, stop_after) as observer:
            summary = train_model(
                resolved,
                data,
                out,
                pairs=pairs,
                anatomies=anatomies,
                resume=resume,
                init=None if resume_or_start and resume else init,
                stop_after=stop_after,
                reading=reading,
                overwrite=overwrite,
                device=device,
                observer=observer if first else None,
            )
        if not first:
            return
        outcome.update(vars(summary))
        say(", ".join(f"{key} {value}" for key, value in outcome.items()))
        say(f"report: {out / 'report.html'}")
        say(RESEARCH_USE)


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
    from ctmr.training.run_folder import RunFolder

    if resume and out is not None and preset is None and file is None:
        resolved = overlaid(RunFolder(out).read_config(), settings)
    else:
        resolved = load_config(preset or "default", file, settings)
    return with_steps(resolved, *length)
