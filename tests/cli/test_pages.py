"""`ctmr help` prints the pages of the documents."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.cli.pages import page, topics
from ctmr.config import Config
from ctmr.errors import UsageError
from ctmr.training.run_folder import RESUMABLE

DOCS = Path(__file__).parents[2] / "docs"


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
