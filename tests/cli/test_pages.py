"""`ctmr help` prints the pages of the documents."""

import ast
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.cli.pages import page, topics
from ctmr.config import Config
from ctmr.errors import UsageError
from ctmr.training.run_folder import RESUMABLE

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = Path(__file__).parents[2] / "src" / "ctmr"


def run(*arguments):
    return CliRunner().invoke(app, ["help", *arguments])


def test_every_page_is_listed_with_its_title():
    result = run("--json")
    listed = json.loads(result.stdout.splitlines()[-1])["topics"]
    assert set(listed) == {file.stem for file in DOCS.rglob("*.md")} | {"settings", "errors"}
    assert listed["results"] == "Results"
    assert "results" in result.stdout


def test_names_of_pages_are_not_taken_twice():
    files = [file.stem for file in DOCS.rglob("*.md")]
    assert len(files) == len(set(files))


def test_a_page_is_printed_as_it_stands():
    text = next(DOCS.rglob("results.md")).read_text(encoding="utf-8")
    assert run("results").stdout == text


def test_an_unknown_page_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as raised:
        page("setings")
    assert "ctmr help settings" in raised.value.fix


def test_settings_and_errors_are_made_from_the_program():
    settings = page("settings")
    for section, inner in Config.model_json_schema()["$defs"].items():
        for key in inner.get("properties", {}):
            assert f".{key}`" in settings, (section, key)
    assert "| `E300` | 3 |" in page("errors")
    assert topics()["settings"] == "Settings"


def test_settings_that_a_resumed_run_may_change_say_so():
    rows = [line for line in page("settings").splitlines() if line.startswith("| `")]
    marked = {row.split("`")[1] for row in rows if row.endswith("| may change |")}
    assert marked == RESUMABLE
    assert len(rows) > len(RESUMABLE)


def spoken():
    """What the program may say: every string of its code but docstrings, and every text that travels with it."""
    for file in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in alone:
                yield file, node.value
    for suffix in ("md", "html", "j2", "json"):
        for file in sorted(SOURCE.rglob(f"*.{suffix}")):
            yield file, file.read_text(encoding="utf-8")


def test_messages_name_only_pages_that_a_user_has():
    named = set()
    for file, text in spoken():
        for topic in re.findall(r"ctmr help ([a-z][a-z-]*[a-z])", text):
            if topic != "for":  # "ctmr help for all"
                named.add(topic)
                assert topic in topics(), (file, topic)
        assert not re.search(r"\bdocs/|\w\.md\b", text.replace("README.md", "")), file
    assert {"settings", "data-folders", "lesions", "images", "results"} <= named
