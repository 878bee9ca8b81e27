"""The command that translates."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import Debug, Json, Overwrite
from ctmr.cli.output import RESEARCH_USE, outcome_of, progress_bars, say
from ctmr.cli.tables import say_correlations, some
from ctmr.errors import DataError


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
        from ctmr.translation.batch import translate_files
        from ctmr.translation.plan import Reading
        from ctmr.translation.translator import load_model

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
