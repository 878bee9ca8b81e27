"""The command that names the models of the package."""

from typing import Annotated

import typer

from ctmr.cli.options import Debug, Json
from ctmr.cli.output import outcome_of, say


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
