"""The command that translates."""

import logging
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.devices import processes_wanted
from ctmr.cli.options import (
    Anyway,
    CtValues,
    Debug,
    Device,
    Devices,
    GeometryOption,
    Irregular,
    Json,
    Overwrite,
    SeriesOption,
    reading_of,
)
from ctmr.cli.output import RESEARCH_USE, outcome_of, progress_bars, say
from ctmr.cli.tables import say_correlations, some
from ctmr.errors import DataError, UsageError
from ctmr.models.bundle import HEAD

told = logging.getLogger("ctmr.runs")  # what is said before any work


def translate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="An image, a volume file, a DICOM series (folder or .zip), or a folder of these.",
        ),
    ],
    output: Annotated[Path, typer.Argument(help="File or folder for the translation.")],
    to: Annotated[Literal["mr", "ct"], typer.Option(help="Target modality.")],
    model: Annotated[
        Path,
        typer.Option(help="Run folder, model folder, or name of a model that comes with ctmr."),
    ] = Path(HEAD),
    quality: Annotated[
        Literal["fast", "full", "none"],
        typer.Option(
            help="Quality checks: none, fast (every 8th slice), or full (all slices, with"
            " uncertainty maps)."
        ),
    ] = "fast",
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="Stop before any work if an input cannot be used, or skip it."),
    ] = "stop",
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DICOM_DIR",
            help="Write the result of a volume file as DICOM, with the headers of this series.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Skip scans that an earlier call has translated with the same options."
        ),
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Translate only scans whose path below INPUT matches; * also matches /.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Translate the I-th of N shares of the scans, for jobs side by side.",
        ),
    ] = None,
    devices: Devices = None,
    device: Device = "auto",
    engine: Annotated[
        Literal["torch", "openvino", "onnx"] | None,
        typer.Option(help="Library that runs the networks. [default: the fastest installed]"),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Number format; auto takes bfloat16 where the processor has it."),
    ] = "auto",
    geometry: GeometryOption = None,
    irregular: Irregular = False,
    anyway: Anyway = False,
    series: SeriesOption = None,
    ct_values: CtValues = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Translate scans, with a quality report for each.

    Outputs keep the names and the grids of the inputs; beside each lie a picture of source and result, and a JSON file that
    says how far to trust it.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.models.devices import counted
        from ctmr.translation.translator import load_model
        from ctmr.translation.workers import Translators, runs_on

        reading = reading_of(geometry, irregular, anyway, series, ct_values)
        share = _share(part)
        if device == "cuda" and engine not in (None, "torch"):
            raise UsageError(
                f"the engine {engine} runs on the processor alone", fix="leave out --device"
            )
        on_cpu = device == "auto" and engine not in (None, "torch")
        several = processes_wanted(devices, "cpu" if on_cpu else device)
        load = partial(load_model, model, engine=engine, precision=precision)
        translator = load()
        if several is None:
            translator.make_ready(to, quality)
        told.info("translating on %s", runs_on(translator, several))
        from ctmr.translation.batch import translate_files

        with ExitStack() as held:
            progress = held.enter_context(progress_bars())
            workers = held.enter_context(Translators(*several, load)) if several else None
            summary = translate_files(
                translator,
                source,
                output,
                to,
                quality=quality,
                on_error=on_error,
                reading=reading,
                like=like,
                resume=resume,
                overwrite=overwrite,
                only=only,
                part=share,
                workers=workers,
                progress=progress("translating"),
            )
        kept = f", {summary.kept} kept from before," if resume else ""
        say(
            f"{counted(summary.written, 'scan')} written to {output}{kept} in {summary.seconds:.1f} s"
        )
        if summary.warned:
            say(f"{len(summary.warned)} with a quality warning: {some(summary.warned)}")
        if not translator.model.card.training:
            say(
                "quality unknown: the model has no training statistics (ctmr import-weights --data)"
            )
        if quality != "none":
            say("look before you use: NAME.preview.png beside each shows source and translation")
            say_correlations(translator.correlations(to))
        say(RESEARCH_USE)
        outcome.update(vars(summary), output=str(output))
        if summary.skipped:
            raise DataError(
                f"{len(summary.skipped)} inputs were skipped: {some(summary.skipped)}",
                file=source,
                fix="restore these files and translate them again",
            )


def _share(text: str | None) -> tuple[int, int]:
    """The share and the number of shares that `--part` names.

    Raises:
        UsageError: If it is not I/N with 1 <= I <= N.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text or "1/1")
    which, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= which <= parts:
        raise UsageError(
            f"--part must be I/N with I from 1 to N: found {text!r}",
            fix="--part 1/2 and --part 2/2",
        )
    return which, parts
