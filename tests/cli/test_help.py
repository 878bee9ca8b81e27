import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import ctmr
from ctmr.cli.app import app

SOURCE = Path(ctmr.__file__).parent
MAX_WORDS = 25
COMMANDS = sorted(typer.main.get_command(app).commands)


def shown(*words):
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.output


def sentences(text):
    return [each for each in re.split(r"(?<=[.:;!?])\s+", text) if each]


def test_help_names_every_command_in_one_line_and_cuts_none():
    """In a process of its own: a runner of tests has lines that are two columns longer than a terminal's."""
    words = (sys.executable, "-m", "ctmr", "--help")
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        summary = typer.main.get_command(app).commands[name].help.split("\n")[0]
        assert " ".join(line.split()) == f"{name} {summary}"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_and_short_sentences_in_80_columns(name):
    text = shown(name)
    assert f"Example: ctmr {name} " in text
    assert max(map(len, text.splitlines())) <= 80
    command = typer.main.get_command(app).commands[name]
    texts = [command.help, *(param.help for param in command.params if getattr(param, "help", ""))]
    for sentence in (each for text in texts for each in sentences(text)):
        assert len(sentence.split()) <= MAX_WORDS, sentence


def test_version_says_what_a_result_depends_on():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert re.fullmatch(
        r"ctmr \S+, Python 3\.\S+, ONNX Runtime \S+, PyTorch 2\.\S+, .+\n", done.output
    )


def text_of(node):
    """A string literal, `x` in place of each value that is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(each) or "x" for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (text_of(node.left) or "x") + (text_of(node.right) or "x")
    return None


def texts(tree):
    """Every text of a file that is no docstring, with its line: messages, reasons, notes, what to do."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        text = None if id(node) in docstrings else text_of(node)
        if text is not None:
            yield node.lineno, text
        elif id(node) not in docstrings:
            waiting.extend(ast.iter_child_nodes(node))


def test_texts_of_a_file_are_found_wherever_they_stand():
    code = "\"\"\"Of no interest.\"\"\"\nWHY = {1: f'a {b} c' 'd'}\ndef f():\n    'Nor this.'\n    return 'e' + 'f'"
    assert sorted(texts(ast.parse(code))) == [(2, "a x cd"), (5, "ef")]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_sentence_of_a_message_has_more_than_25_words(path):
    long = [
        (line, len(sentence.split()), sentence)
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8")))
        for sentence in sentences(text)
        if len(sentence.split()) > MAX_WORDS
    ]
    assert long == []
