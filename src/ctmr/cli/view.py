"""The command that opens the page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ctmr.cli.options import Debug
from ctmr.cli.output import RESEARCH_USE, outcome_of, say
from ctmr.errors import UsageError


def view(
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Run or model folder to offer beside the bundled one; can be repeated."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder with runs to watch, whose models are offered."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Only print the URL; open no browser.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show scans beside their translations on a local page.

    The page listens on 127.0.0.1 only, and nothing leaves the machine. Ctrl-C ends it and deletes what was uploaded.
    """
    with outcome_of(False, debug):
        try:
            from ctmr.viewer.folder import server_folder
            from ctmr.viewer.server import Server, listen, serve
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn", "h11", "anyio"):
                raise
            what = f"this command needs {error.name}, which is not installed"
            raise UsageError(what, fix="pip install 'ctmr[view]'") from error
        if runs is not None and not runs.is_dir():
            raise UsageError("expected a folder with runs: found none", file=runs, fix="name one")
        bound = listen(port)
        number = bound.getsockname()[1]
        with bound, server_folder() as folder:
            server = Server(folder, number, model or (), runs)
            url = f"http://127.0.0.1:{number}/#{server.session.token}"

            def started() -> None:
                say(url)
                say(f"Ctrl-C ends it; {RESEARCH_USE}")
                if not no_open:
                    _open(folder, url)

            serve(server, bound, started)


def _open(folder: Path, url: str) -> None:
    """Open a browser by a file of the user's alone: arguments of a process can be read by all users of a machine."""
    page = folder / "open.html"
    page.write_text(f'<meta http-equiv="refresh" content="0;url={url}">', encoding="utf-8")
    webbrowser.open(page.as_uri())
