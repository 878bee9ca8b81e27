import inspect
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ctmr.errors
from ctmr.errors import (
    CtmrError,
    DataError,
    SafetyError,
    Stopped,
    UsageError,
    printable,
    refuse_all,
)

# faults.md, 1.0
EXIT_CODES = {
    "CtmrError": 1,
    "UsageError": 2,
    "DataError": 3,
    "OutputError": 4,
    "CheckpointError": 5,
    "DivergedError": 6,
    "ResourceError": 7,
    "SafetyError": 8,
    "DistributedError": 9,
}
CLASSES = [
    value
    for _, value in inspect.getmembers(ctmr.errors, inspect.isclass)
    if issubclass(value, CtmrError)
]
PLAIN = [kind for kind in CLASSES if kind is not Stopped]


def test_every_class_is_in_the_table_of_exit_codes():
    assert {kind.__name__ for kind in PLAIN} == set(EXIT_CODES)
    assert len({kind.code for kind in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", PLAIN)
def test_class_has_its_exit_code_and_a_code_of_its_own(kind):
    assert kind.exit_code == EXIT_CODES[kind.__name__]
    assert kind.code == f"E{kind.exit_code}00"


@pytest.mark.parametrize("kind", CLASSES)
def test_class_is_drawn_in_the_tree_with_its_exit_code(kind):
    lines = [line for line in ctmr.errors.__doc__.splitlines() if kind.__name__ in line]
    assert len(lines) == 1
    if kind in PLAIN[1:] and kind is not CtmrError:
        assert f"exit {kind.exit_code} " in lines[0]


@pytest.mark.parametrize("kind", PLAIN)
def test_error_is_one_line_with_file_what_and_fix(kind):
    error = kind("expected 2 images, found 1", file=Path("a/b.png"), fix="add one")
    assert str(error) == "a/b.png: expected 2 images, found 1. Fix: add one."


@pytest.mark.parametrize("kind", PLAIN)
def test_error_as_json_has_the_keys_of_the_contract(kind):
    error = kind("what", file="here", fix="this")
    assert error.as_json() == {
        "code": kind.code,
        "file": "here",
        "what": "what",
        "fix": "this",
        "exit": kind.exit_code,
    }


def test_error_without_a_file_begins_with_what():
    error = UsageError("what", fix="this")
    assert str(error) == "what. Fix: this."
    assert error.as_json()["file"] is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_exits_with_128_and_the_signal(number, code):
    error = Stopped("stopped", file="run", fix="go on", signal_number=number)
    assert error.exit_code == code
    assert error.as_json()["exit"] == code


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("head 01_ä.png", "head 01_ä.png"),
        ("a\nerror[E100].png", "a\\nerror[E100].png"),
        ("a\x1b[2J\r\t\x00", "a\\x1b[2J\\r\\t\\x00"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),  # would be shown right to left
        (b"\xff.png".decode(errors="surrogateescape"), "\\udcff.png"),
    ],
)
def test_file_name_cannot_forge_a_line(name, shown):
    assert printable(name) == shown
    error = UsageError("what", file=Path(name), fix="this")
    assert error.as_json()["file"] == shown
    assert len(str(error).splitlines()) == 1
    str(error).encode()


@pytest.mark.parametrize("kind", PLAIN)
def test_error_comes_whole_out_of_a_worker_process(kind):
    error = kind("what", file="here", fix="this")
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copied) is kind
    assert copied.as_json() == error.as_json()
    assert str(copied) == str(error)


def test_stopped_comes_whole_out_of_a_worker_process():
    error = Stopped("what", file="here", fix="this", signal_number=15)
    assert pickle.loads(pickle.dumps(error)).as_json() == error.as_json()  # noqa: S301


def test_errors_can_be_imported_without_torch():
    script = "import sys, ctmr.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_reasons_come_before_three_names_and_a_count():
    failures = [(f"{n}.png", DataError("found text", fix="convert it")) for n in range(85)]
    failures.append(("odd.nii", SafetyError("found no orientation", fix="give --geometry RAS")))
    with pytest.raises(SafetyError) as caught:
        refuse_all(failures, "of 90 scans cannot be used", file=Path("data"), fix="leave them out")
    assert str(caught.value) == (
        "data: 86 of 90 scans cannot be used: found text (0.png, 1.png, 2.png and 82 more);"
        " found no orientation (odd.nii). Fix: give --geometry RAS, or leave them out."
    )


def test_fix_of_all_is_said_as_each_would_say_it():
    failures = [(name, DataError(f"found {name}", fix="give --irregular")) for name in "ab"]
    for fix, said in (("correct them", ""), ("give --on-error skip", ", or give --on-error skip")):
        with pytest.raises(DataError) as caught:
            refuse_all(failures, "scans cannot be read", file=Path("data"), fix=fix)
        assert caught.value.fix == f"give --irregular{said}"


def test_many_reasons_are_counted():
    failures = [(f"{n}.png", DataError(f"found {n}", fix=f"do {n}")) for n in range(14)]
    with pytest.raises(DataError) as caught:
        refuse_all(failures, "scans cannot be read", file=Path("data"), fix="correct them")
    assert caught.value.what.endswith("found 9 (9.png); other reasons (4 more)")
    assert caught.value.fix == "correct them"
    with pytest.raises(DataError, match="found 3") as caught:
        refuse_all(failures[3:4], "scans cannot be read", file=Path("data"), fix="correct them")
    refuse_all([], "scans cannot be read", file=Path("data"), fix="correct them")
