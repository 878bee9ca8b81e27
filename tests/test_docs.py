"""The documentation does what it says: every block of commands runs here, or says why it does not."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer

from ctmr.cli.app import app
from ctmr.imaging.intensity import CT_WINDOWS
from ctmr.io.dicom.writer import phantom_series
from ctmr.io.nifti import read_nifti
from support.reference import Resnet, drawn, save

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("bash", "console", "python")

SMALLER = (
    "data.size=32",
    "network.filters=4",
    "train.start=random",
    "network.blocks=1",
    "network.discriminator_filters=4",
)
SET = " ".join(f"--set {setting}" for setting in SMALLER)
# What `<!-- run reduced -->` appends to a line of bash that begins so, and to `overrides=[...]` in Python.
REDUCED = {
    "ctmr train": f" --steps 4 {SET}",
    "ctmr prepare": f" {SET}",
    # They are no real heads.
    "ctmr translate scan": " --anyway",
    "ctmr translate slice": " --anyway",
    # Without the list nothing is known of lesions: 60 heads with them would take a minute. Nor are pairs looked at in training.
    "ctmr synth heads": " --subjects 1 --size 48 && rm -r heads/subjects.json heads/val",
}
REDUCED_PYTHON = "".join(f", {setting!r}" for setting in ("train.steps=4", *SMALLER))

# A block, with the comment on the line before it.
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>(?:run|not run)\b.*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
# Of every page that is written by hand; an entry of CHANGELOG.md is one sentence, and stays as it was released.
MOST_WORDS, MOST_WORDS_IN_CELL = 25, 12


class Block(NamedTuple):
    """A fenced block of code of a document."""

    path: Path
    line: int
    language: str
    code: str
    mark: str

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run")

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match["language"] in LANGUAGES:
            line = text.count("\n", 0, match.start("code"))
            yield Block(path, line, match["language"], match["code"], match["mark"] or "")


BLOCKS = {path: list(blocks(path)) for path in DOCS}
RUN = [path for path, found in BLOCKS.items() if any(block.runs for block in found)]


def reduced(block: Block) -> str:
    """The block's code, made tiny if its mark says so; of a console only what is typed."""
    lines = block.code.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    if block.mark != "run reduced":
        return "\n".join(lines)
    if block.language == "python":
        return re.sub(r"overrides=\[([^]]*)", rf"overrides=[\1{REDUCED_PYTHON}", block.code)
    smaller = []
    for line in lines:
        more = next((options for start, options in REDUCED.items() if line.startswith(start)), "")
        command, arrow, target = line.partition(" > ")
        smaller.append(command + more + arrow + target)
    return "\n".join(smaller)


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_data: Path,
    tiny_pairs: Path,
    tiny_run: Path,
    tiny_volumes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with the DATA, PAIRS, MODEL and scans that the documents speak of."""
    for name, source in {
        "DATA": tiny_data,
        "PAIRS": tiny_pairs,
        "MODEL": tiny_run / "model",
    }.items():
        shutil.copytree(source, tmp_path / name)
    for folder in ("testA", "testB"):
        shutil.copy(
            min((tmp_path / "DATA" / folder).iterdir()), tmp_path / "DATA" / folder / "0001.png"
        )
    shutil.copy(tiny_volumes / "test/mr/3.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copy(tmp_path / "DATA/testB/0001.png", tmp_path / "slice.png")
    scan = read_nifti(tmp_path / "scan.nii.gz")
    mr = replace(scan, array=np.rint(scan.array), modality="mr")
    phantom_series(tmp_path / "scan-dicom", mr, name="P1", study="1")
    for n, letter in enumerate("AB"):
        save(drawn(Resnet(), n), tmp_path / f"latest_net_G_{letter}.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("path", RUN, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.usefixtures("place")
def test_the_commands_of_a_document_run_from_top_to_bottom(path: Path) -> None:
    for block in BLOCKS[path]:
        if not block.runs:
            continue
        code = reduced(block)
        if block.language == "python":
            exec(compile(code, block.place, "exec"), {"__name__": "__main__"})
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{block.place}: {code}\n{done.stdout}{done.stderr}"


def test_every_block_runs_or_says_why_not() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    fences = re.findall(rf"^[ >]*```(?:{'|'.join(LANGUAGES)}).*$", text, re.MULTILINE)
    every = [block for found in BLOCKS.values() for block in found]
    executed = [block for block in every if block.runs]
    marked = [block for block in every if re.fullmatch(r"not run: \S.{8,}", block.mark)]
    unclear = [b.place for b in every if b.mark not in ("", "run reduced") and b not in marked]
    assert unclear == [], "expected no mark, `run reduced` or `not run: REASON`"
    assert len(executed) + len(marked) == len(every) == len(fences)
    assert len(executed) >= 6
    assert len(re.findall("<!-- (?:run|not run)", text)) == sum(b.mark != "" for b in every) + 2, (
        "a mark must stand on the line before its block (two are explained in CONTRIBUTING.md)"
    )


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    for path in DOCS:
        for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
            if match["language"] not in LANGUAGES:
                assert not re.search(
                    r"^\$? ?(ctmr|make|pip|python) ", match["code"], re.MULTILINE
                ), path


def spoken_commands() -> Iterator[tuple[str, str]]:
    """Every `ctmr ...` in a block of bash or in a span of code, with its document."""
    for path in DOCS:
        for span in re.findall(r"`(ctmr [a-z][^`\n]*)`", path.read_text(encoding="utf-8")):
            yield str(path.relative_to(ROOT)), span
        for block in BLOCKS[path]:
            if block.language != "python":
                for line in reduced(block).splitlines():
                    if line.startswith("ctmr "):
                        yield block.place, line


def test_commands_and_options_in_the_documents_exist() -> None:
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    checked = 0
    for place, line in spoken_commands():
        words = shlex.split(line, comments=True)
        assert words[1] in commands, f"{place}: {line}"
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        asked = {word for word in words[2:] if word.startswith("--")}
        assert asked <= known | {"--help"}, f"{place}: {line}"
        checked += 1
    assert checked > 20


def heading_anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_within_the_documents_lead_somewhere() -> None:
    broken = []
    for path in [*DOCS, ROOT / "CHANGELOG.md"]:
        for target, anchor in LINK.findall(path.read_text(encoding="utf-8")):
            file = (path.parent / target) if target else path
            if not file.exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                if anchor not in map(heading_anchor, headings):
                    broken.append(f"{path.relative_to(ROOT)}: {target}#{anchor}")
    assert broken == []


def prose(text: str) -> Iterator[tuple[str, int]]:
    """Every sentence and table cell of a page as it is read, with the words it may have.

    Code, comments and where links lead are left out.
    """
    text = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]*`", "`", text)
    text = re.sub(r"\]\([^)]*\)", "", text)
    rows = re.findall(r"^ *\|.*$", text, re.MULTILINE)
    yield from ((cell, MOST_WORDS_IN_CELL) for row in rows for cell in row.split("|"))
    text = re.sub(r"^ *\|.*$", "", text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n(?= *(?:[-*#>]|\d+\.) )", text):
        for sentence in re.split(r"(?<=[.!?])[)*\"]* +(?![a-z])", " ".join(block.split())):
            yield sentence, MOST_WORDS


def words(text: str) -> int:
    """The words of a text; figures and spans of code count as nothing."""
    return sum(bool(re.search(r"[^\W\d_]", word)) for word in text.split())


def test_sentences_and_cells_of_pages_are_short() -> None:
    parts = [(path, *part) for path in DOCS for part in prose(path.read_text(encoding="utf-8"))]
    long = [(str(path.relative_to(ROOT)), text) for path, text, most in parts if words(text) > most]
    assert long == []
    assert len(parts) > 20 * len(DOCS)


def test_words_are_counted_as_a_reader_counts_them() -> None:
    text = (
        "Two words. Of `a b` 3.5 [three](there.md#is) words\n- an item\n\n| a cell | 2 of `it` |\n"
    )
    counted = [(words(part), most) for part, most in prose(text) if words(part)]
    assert counted == [(2, 12), (1, 12), (2, 25), (3, 25), (2, 25)]


def test_every_how_to_is_linked_from_another_page() -> None:
    linked = {
        (path.parent / target).resolve()
        for path in DOCS
        for target, _ in LINK.findall(path.read_text(encoding="utf-8"))
        if (path.parent / target).resolve() != path
    }
    assert [path for path in DOCS if path.parent.name == "how-to" and path not in linked] == []


def test_windows_in_the_documents_are_those_of_the_code() -> None:
    text = (ROOT / "docs/concepts/grey-values.md").read_text(encoding="utf-8")
    for name, knots in CT_WINDOWS.items():
        row = f"| `{name}` | " + ", ".join(f"{hu:g} -> {level:g}" for hu, level in knots) + " |"
        assert row in text
