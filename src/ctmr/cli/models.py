"""Commands about models: those of the package, one handed on, and one made of foreign weights."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import (
    Anyway,
    CtValues,
    Debug,
    Json,
    Overwrite,
    reading_of,
)
from ctmr.cli.output import RESEARCH_USE, outcome_of, progress_bars, say


def models(
    name: Annotated[
        str | None, typer.Argument(help="Print the page about this model: figures and limits.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the models that come with ctmr, or say more of one."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.models.bundle import bundled_models, bundled_page

        if name is not None:
            page = bundled_page(name)
            for line in page.splitlines():
                say(line)
            outcome.update(name=name, page=page)
            return
        found = bundled_models()
        for model in found:
            say(
                f"{model.name}  {', '.join(model.directions)}  {model.size_mb:g} MB  {model.licence}"
            )
            say(f"  {model.what}")
            for limit in model.limits:
                say(f"  - {limit}")
            say(f"  sha256 {model.sha256}")
        if not found:
            say("no model comes with this installation")
        outcome.update(models=[model.as_json() for model in found])


def export(
    model: Annotated[
        Path,
        typer.Argument(help="Run folder, model folder, or name of a model that comes with ctmr."),
    ],
    out: Annotated[Path, typer.Argument(help="New folder for the exported model.")],
    form: Annotated[
        Literal["onnx", "openvino"],
        typer.Option("--format", help="ONNX, or OpenVINO's own format."),
    ],
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="SPDX",
            help="Licence of the weights, written into model.json and README.md.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as graphs, which translate without PyTorch.

    The folder holds both directions and a card that says what the model is.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.models.export import export_model

        graphs = export_model(model, out, form, licence=licence)
        size = sum(path.stat().st_size for path in out.iterdir())
        say(f"{', '.join(path.name for path in graphs)} written to {out}, {size / 1e6:.1f} MB")
        say(f"translate with it: ctmr translate INPUT OUTPUT --to ct --model {out}")
        say(RESEARCH_USE)
        outcome.update(output=str(out), graphs=[path.name for path in graphs], bytes=size)


def import_weights(
    net_g_a: Annotated[Path, typer.Argument(metavar="NET_G_A.pth", help="Generator from A to B.")],
    net_g_b: Annotated[Path, typer.Argument(metavar="NET_G_B.pth", help="Generator from B to A.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New model folder.")],
    ct_is: Annotated[Literal["A", "B"], typer.Option(help="The domain that holds CT.")],
    size: Annotated[
        int,
        typer.Option(
            metavar="PX",
            min=36,
            max=2048,
            help="Short side of an image in the networks, in pixels.",
        ),
    ] = 256,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Data folder of the training images; without it the quality of translations is"
            " unknown.",
        ),
    ] = None,
    net_d: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="NET_D_A.pth NET_D_B.pth",
            help="Discriminators, with which a training can go on.",
        ),
    ] = None,
    anyway: Anyway = False,
    ct_values: CtValues = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a model of weights of pytorch-CycleGAN-and-pix2pix.

    Reads ResNet generators with instance norm. Nothing in the files is run.
    """
    with outcome_of(as_json, debug) as outcome:
        from ctmr.training.import_model import import_model

        with progress_bars() as progress:
            made = import_model(
                (net_g_a, net_g_b),
                out,
                ct_is=ct_is,
                size=size,
                data=data,
                net_d=net_d,
                reading=reading_of(None, False, anyway, None, ct_values),
                progress=progress("preparing"),
            )
        say(f"{out}: {made.channels} channels, {made.blocks} blocks, {made.filters} filters")
        if not made.measured:
            say("the quality of its translations is unknown: give --data to measure it")
        say(RESEARCH_USE)
        outcome.update(asdict(made), out=str(out))
