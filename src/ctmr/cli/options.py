"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ctmr.io.reading import Reading

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
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; can be repeated."),
]
Preset = Annotated[
    str | None,
    typer.Option(help="Settings to start from: paper, default or small. [default: default]"),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE.yaml", help="File with settings that replace those of the preset."
    ),
]

Devices = Annotated[
    int | None,
    typer.Option(
        help="Processes on this machine: one for each GPU, or without one a share of the cores."
        " [default: 1]"
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run; auto takes a GPU if it can.")
]

Pairs = Annotated[
    Path | None,
    typer.Option(
        metavar="PAIRS", help="Registered pairs to train on too: a folder with ct and mr."
    ),
]
Anatomies = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Label maps of heads (ctmr fetch anatomies) to render pairs of."
    ),
]

# How scans are read: one set for every command that reads them.
GeometryOption = Annotated[
    Literal["sform", "qform", "RAS", "LAS", "LPS"] | None,
    typer.Option(
        "--geometry",
        help="Orientation to use where a volume's header contradicts itself or has none.",
    ),
]
Irregular = Annotated[
    bool,
    typer.Option("--irregular", help="Accept DICOM series with missing or unevenly spaced slices."),
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Skip the modality and anatomy checks.")]
SeriesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--series",
        metavar="NUMBER|UID|all",
        help="Which of several DICOM series in one folder; can be repeated.",
    ),
]
CtValues = Annotated[
    str | None,
    typer.Option(
        metavar="hu|hu+1024|grey|LOW:HIGH",
        help="What CT values are, if not HU; LOW:HIGH is the window in HU of the grey range.",
    ),
]


def reading_of(
    geometry: Literal["sform", "qform", "RAS", "LAS", "LPS"] | None,
    irregular: bool,
    anyway: bool,
    series: list[str] | None,
    ct_values: str | None,
) -> "Reading":
    """The reading options that a user gave."""
    from ctmr.io.reading import Reading

    return Reading(geometry, irregular, anyway, tuple(series or ()), ct_values)
