"""`ctmr help`: the documents in the terminal."""

import sys
from typing import Annotated

import typer

from ctmr.cli.options import Debug, Json
from ctmr.cli.output import outcome_of, say


def show_help(
    topic: Annotated[
        str | None, typer.Argument(help="Name of a page; without it the pages are listed.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a page of the documents."""
    with outcome_of(as_json, debug) as outcome:
        from ctmr.cli.pages import page, topics

        if topic is None:
            found = topics()
            for name, title in found.items():
                say(f"{name:<24}  {title}")
            outcome.update(topics=found)
            return
        text = page(topic)
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.markdown import Markdown

            Console().print(Markdown(text))
        else:
            for line in text.splitlines():
                say(line)
        outcome.update(topic=topic, page=text)
