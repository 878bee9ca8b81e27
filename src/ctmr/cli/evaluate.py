"""Commands that measure a model and show a run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import Debug, Json, Overwrite
from ctmr.cli.output import outcome_of, progress_bars, say
from ctmr.cli.tables import print_evaluation
from ctmr.errors import UsageError


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
        from ctmr.evaluation.evaluate import evaluate as evaluate_model

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
        print_evaluation(found.metrics)
        say(f"written to {place}")
        outcome.update(found.summary)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html of a run: curves, grids over time, settings and figures on one page."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.reporting.run_report import write_report

        page = write_report(run, overwrite=overwrite)
        say(f"report: {page}")
        outcome.update(report=str(page))


def _answer(item: str) -> tuple[str, Path]:
    """The name and the folder in `NAME=FOLDER`."""
    name, equals, folder = item.partition("=")
    if not (name and equals and folder):
        raise UsageError(
            f"expected NAME=FOLDER, found {item!r}", fix="write for example --answers other=results"
        )
    return name, Path(folder)
