"""The page is small, plain and its own: no build step, no inline part, no address of anyone else."""

import re
from pathlib import Path

import pytest

from ctmr.viewer.pages import NIIVUE, PAGE

OWN = [path for path in sorted(PAGE.iterdir()) if path.name != NIIVUE]
MAX_BYTES, MAX_LINE = 60_000, 120


def test_page_is_small() -> None:
    assert sum(path.stat().st_size for path in OWN) <= MAX_BYTES


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_file_has_short_lines_and_nothing_inline(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= MAX_LINE
    assert not re.search(r"https?://", text)
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)", text)


def test_niivue_is_kept_out_of_the_repository_and_its_hash_in_it() -> None:
    root = Path(__file__).parents[2]
    assert "/src/ctmr/viewer/page/niivue.js" in (root / ".gitignore").read_text("utf-8")
    assert re.search(r"NIIVUE_SHA256 := [0-9a-f]{64}", (root / "Makefile").read_text("utf-8"))
    licence = (PAGE.parent / "niivue-licence.txt").read_text("utf-8")
    assert "BSD 2-Clause License" in licence
