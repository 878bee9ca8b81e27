"""Nothing that SimpleITK reads rightly is refused by ctmr without an option that makes it go."""

import importlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_is_read_and_the_table_of_the_docs_is_true(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["series_readers", "--json"])
    importlib.import_module("series_readers").main()
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {name for name, row in rows.items() if row["ctmr"] != "right"} == set()
    assert {name: row["with"] for name, row in rows.items() if row["with"]} == {
        "a slice is missing": "--irregular",
        "two thicknesses": "--irregular",
        "no rescale": "--ct-values hu",
        "RescaleType US": "--ct-values hu",
    }
    plain = sum(not row["with"] for row in rows.values())
    theirs = [
        sum(row["simpleitk"] == found for row in rows.values()) for found in ("right", "wrong")
    ]
    text = (ROOT / "docs/project/results.md").read_text()
    assert f"writes {len(rows)} folders" in text
    assert f"| right without an option | {theirs[0]} | {plain} |" in text
    assert re.search(rf"\| wrong: .* \| {theirs[1]} \| 0 \|", text)
    assert sum(theirs) == len(rows)
