"""Commands about models: those of the package, and handing one on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ctmr.cli.options import Debug, Json
from ctmr.cli.output import RESEARCH_USE, outcome_of, say


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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model as graphs, which translate without PyTorch, with a card that says what it is."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.models.export import export_model

        graphs = export_model(model, out, form, licence=licence)
        size = sum(path.stat().st_size for path in out.iterdir())
        say(f"{', '.join(path.name for path in graphs)} written to {out}, {size / 1e6:.1f} MB")
        say(f"translate with it: ctmr translate INPUT OUTPUT --to ct --model {out}")
        say(RESEARCH_USE)
        outcome.update(output=str(out), graphs=[path.name for path in graphs], bytes=size)
