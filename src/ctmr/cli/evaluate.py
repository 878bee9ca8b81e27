"""Commands that measure a model and show a run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import (
    Anyway,
    CtValues,
    Debug,
    GeometryOption,
    Irregular,
    Json,
    Overwrite,
    SeriesOption,
    reading_of,
)
from ctmr.cli.output import outcome_of, progress_bars, say
from ctmr.cli.tables import print_evaluation
from ctmr.errors import UsageError


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Run folder, model folder, or name of a model that comes with ctmr."),
    ],
    pairs: Annotated[
        Path, typer.Argument(help="Folder with ct/ mr/ and optionally mask/, or a data folder.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results. [default: MODEL/evaluation; of a model that comes with ctmr: evaluation]"
        ),
    ] = None,
    direction: Annotated[
        Literal["both", "ct-to-mr", "mr-to-ct"], typer.Option(help="What to evaluate.")
    ] = "both",
    answers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="Results of another program for PAIRS; can be repeated."
        ),
    ] = None,
    geometry: GeometryOption = None,
    irregular: Irregular = False,
    anyway: Anyway = False,
    series: SeriesOption = None,
    ct_values: CtValues = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on pairs, or on test scans without truth."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.evaluation.evaluate import evaluate as evaluate_model
        from ctmr.models.lookup import results_folder

        folders = dict(_named_folder(item) for item in answers or [])

        reading = reading_of(geometry, irregular, anyway, series, ct_values)
        place = out or results_folder(model)
        with progress_bars() as progress:
            found = evaluate_model(
                model,
                pairs,
                out=place,
                direction=direction,
                answers=folders,
                reading=reading,
                overwrite=overwrite,
                progress=progress,
            )
        print_evaluation(found.metrics)
        say(f"written to {place}")
        outcome.update(found.summary)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report page of a run.

    One HTML file with curves, sample images, settings and metrics; it loads nothing from outside.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.reporting.run_report import write_report

        page = write_report(run, overwrite=overwrite)
        say(f"report: {page}")
        outcome.update(report=str(page))


def _named_folder(item: str) -> tuple[str, Path]:
    """The name and the folder in `NAME=FOLDER`."""
    name, equals, folder = item.partition("=")
    if not (name and equals and folder):
        raise UsageError(
            f"expected NAME=FOLDER, found {item!r}", fix="write for example --answers other=results"
        )
    return name, Path(folder)
