"""docs/project/reliability.md names tests that exist, and says of every row what became of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/project/reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([A-Z]\d+) \| (.+?) \| (.+?) \| (.*) \|$", PAGE, re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
STATES = ("kept", "in part", "refused", "later")


@pytest.mark.parametrize("path", sorted({path for path, _ in TEST.findall(PAGE)}))
def test_tests_that_are_named_exist(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    named = {name for each, name in TEST.findall(PAGE) if each == path}
    assert [name for name in sorted(named) if f"def {name}(" not in text] == []


def test_every_row_stands_there_once() -> None:
    rows = {"A": 14, "D": 18, "N": 8, "C": 5, "K": 7, "R": 30, "S": 27, "M": 10}
    expected = [f"{letter}{n + 1}" for letter, count in rows.items() for n in range(count)]
    assert [row for row, *_ in ROWS] == expected


def test_what_is_kept_names_its_test_and_what_is_not_a_reason() -> None:
    for row, _, state, proof in ROWS:
        assert state in STATES, row
        assert TEST.search(proof) or (state not in ("kept", "in part") and len(proof) > 10), row


def test_the_counts_are_those_of_the_rows() -> None:
    for state, count in re.findall(r"^\| ([a-z ]+) \| (\d+) \| \d+ \|$", PAGE, re.MULTILINE):
        assert int(count) == sum(each == state for _, _, each, _ in ROWS), state
