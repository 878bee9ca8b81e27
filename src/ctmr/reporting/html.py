"""Pieces of a self-contained HTML page: no text in it is markup, and no picture is fetched."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from ctmr.errors import printable


def escaped(value: object) -> str:
    """The value as text that a browser shows and never interprets."""
    return html.escape(printable(str(value)))


def table(heads: Sequence[str], body: str) -> str:
    """A table of trusted rows; the heads are escaped here."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(path: Path, alt: str, *, hidden: bool = False) -> str:
    """A PNG file within the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escaped(alt)}"{" hidden" if hidden else ""}>'
