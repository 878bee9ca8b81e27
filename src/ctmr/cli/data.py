"""Commands that make, check and fetch data folders."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import (
    Anatomies,
    Anyway,
    ConfigFile,
    CtValues,
    Debug,
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
from ctmr.cli.output import outcome_of, progress_bars, say
from ctmr.cli.tables import print_audit


def synth(
    out: Annotated[Path, typer.Argument(help="New data folder.")],
    subjects: Annotated[int, typer.Option(help="Training subjects of each modality.")] = 24,
    image_format: Annotated[
        Literal["png", "nifti", "dicom"], typer.Option("--format", help="File format of the scans.")
    ] = "png",
    seed: Annotated[int, typer.Option(help="The same seed gives the same heads.")] = 0,
    lesions: Annotated[
        float, typer.Option(help="Share of subjects that have lesions, 0 to 1.")
    ] = 0.0,
    size: Annotated[int, typer.Option(help="Side of an axial slice in pixels.")] = 256,
    sequence: Annotated[Literal["t1", "t2"], typer.Option(help="MR contrast.")] = "t1",
    anatomies: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Label maps of heads to render, faces removed; see ctmr fetch anatomies.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write synthetic heads as a data folder, with test pairs."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.synthetic.data_folder import write_heads

        with progress_bars() as progress:
            counts = write_heads(
                out,
                subjects=subjects,
                seed=seed,
                lesions=lesions,
                size=size,
                sequence=sequence,
                image_format=image_format,
                anatomies=anatomies,
                progress=progress("heads"),
            )
        for folder, count in counts.items():
            say(f"{out / folder}: {count} scans")
        outcome.update(out=str(out), images=counts)


def audit(
    data: Annotated[Path, typer.Argument(help="Data folder: trainA trainB testA testB.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.json", help="File for the findings; a page is written beside it."
        ),
    ] = Path("audit.json"),
    clean: Annotated[
        Path | None,
        typer.Option(metavar="OUT_DIR", help="New folder for a cleaned copy without leaks."),
    ] = None,
    settings: Settings = None,
    geometry: GeometryOption = None,
    irregular: Irregular = False,
    anyway: Anyway = False,
    series: SeriesOption = None,
    ct_values: CtValues = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a data folder for leaks, copies and wrong scans."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.audit.audit import Faulty, page_of
        from ctmr.audit.audit import audit as audit_data
        from ctmr.config import load_config

        reading = reading_of(geometry, irregular, anyway, series, ct_values)
        pattern = load_config("default", None, settings or []).data.patient_pattern
        with progress_bars() as progress:
            report = audit_data(
                data,
                out,
                clean,
                patient_pattern=pattern,
                reading=reading,
                overwrite=overwrite,
                progress=progress("checking"),
            )
        print_audit(report)
        say(f"report: {page_of(out)}")
        if report.cleaned is not None:
            say(f"cleaned copy: {clean} ({report.cleaned.left_out} files left out)")
        if report.errors:
            raise Faulty(data, out, report)
        outcome.update(report.as_json())


def prepare(
    data: Annotated[Path, typer.Argument(help="Data folder: trainA trainB testA testB.")],
    store: Annotated[
        Path | None,
        typer.Argument(help="New folder for the prepared slices; its default is in the cache."),
    ] = None,
    pairs: Pairs = None,
    anatomies: Anatomies = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    geometry: GeometryOption = None,
    irregular: Irregular = False,
    anyway: Anyway = False,
    series: SeriesOption = None,
    ct_values: CtValues = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read all scans and all of a store that is there already."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Prepare a data folder once, as a store to train on."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.config import load_config
        from ctmr.data.prepare import prepare as prepare_data

        resolved = load_config(preset or "default", config, settings or [])
        reading = reading_of(geometry, irregular, anyway, series, ct_values)
        with progress_bars() as progress:
            made = prepare_data(
                data,
                resolved.data,
                store,
                progress("preparing"),
                reading=reading,
                pairs=pairs,
                anatomies=anatomies,
                verify=verify,
            )
        say(repr(made))
        outcome.update(store=str(made.path), fingerprint=made.fingerprint)


def fetch(
    dataset: Annotated[
        Literal["kaggle", "anatomies"],
        typer.Argument(help="The paper's data set, or 20 label maps of heads (SynthSeg)."),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="New folder; its default is named after the data.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download the paper's data set, or label maps of heads."""
    with outcome_of(as_json, debug) as outcome:
        if dataset == "anatomies":
            from ctmr.data.anatomies import LICENCE, fetch_anatomies

            out = out or Path("anatomies")
            with progress_bars() as progress:
                fetch_anatomies(out, progress("label maps"))
            say(f"label maps: {out} ({LICENCE})")
        else:
            from ctmr.data.kaggle import fetch_kaggle

            out = out or Path("kaggle-ct-mri")
            say(f"data folder: {fetch_kaggle(out)}")
        outcome.update(dataset=dataset, out=str(out))
