"""Templates are filled in so that no value is markup, and none is missing without a word."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import ctmr.reporting
from ctmr.reporting.html import render

TEMPLATES = Path(ctmr.reporting.__file__).parent / "templates"


def test_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render("base.html", {"kind": "a page", "notice": "a notice"})


def test_page_without_a_script_admits_none() -> None:
    page = render("base.html", {"name": "a", "kind": "a page", "notice": "a notice"})
    assert "script" not in page


def test_script_of_a_page_is_admitted_by_its_hash_and_escaped() -> None:
    values = {"name": "a", "kind": "a page", "notice": "a notice", "script": "</script>\n"}
    page = render("base.html", values)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(b"</script>\n").digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "&lt;/script&gt;" in script


def test_control_characters_are_shown_by_their_codes() -> None:
    page = render("base.html", {"name": "a\nb\udcff", "kind": "a page", "notice": "\x1b"})
    assert "<h1>a\\nb\\udcff</h1>" in page
    assert "\\x1b</p>" in page


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_leaves_a_value_unescaped_or_unquoted(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"\|\s*safe\b|autoescape|=\{\{|=\{%|\bon\w+=|<script\b[^>]+\{\{", source)
