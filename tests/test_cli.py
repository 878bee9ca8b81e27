import errno
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ctmr.cli import app as cli
from ctmr.cli.app import app
from ctmr.config import load_config
from ctmr.imaging.image import Image
from ctmr.io.images import write_image
from support.tiny import TINY

COMMANDS = (
    "demo",
    "synth",
    "audit",
    "prepare",
    "train",
    "translate",
    "evaluate",
    "report",
    "fetch",
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def last_line(result: Result) -> dict:
    """The object on the last line of stdout."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    found = json.loads(result.stdout.splitlines()[-1], parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def assert_fails(result: Result, code: int, *words: str) -> None:
    """The command ended with that code and one line, without a traceback."""
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
    assert line.startswith(f"error[E{code}")
    assert ". Fix: " in line
    for word in words:
        assert word in line
    assert "Traceback" not in result.output


def image(path: Path, depth: int = 8) -> Path:
    array = np.random.default_rng(0).integers(0, 256, (40, 44)).astype(np.float32)
    write_image(path, Image(array, "grey", depth))
    return path


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_what_every_option_does(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: ctmr {command} " in result.stdout
    assert "--json" in result.stdout
    assert "--debug" in result.stdout


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    assert "Research use only" in " ".join(result.stdout.split())
    assert all(f"\n  {command}" in result.stdout for command in COMMANDS)


# What each command says


def test_prepare_says_where_the_store_is(tmp_path, tiny_data):
    result = run("prepare", tiny_data, tmp_path / "store", *TINY, "--json")
    printed = last_line(result)
    assert printed["store"] == str(tmp_path / "store")
    assert len(printed["fingerprint"]) == 64
    again = run("train", tmp_path / "store", "--out", tmp_path / "run", "--steps", 1, *TINY)
    assert again.exit_code == 0, again.output


def test_train_says_what_it_did_and_goes_on(tmp_path, tiny_data):
    begin = ["train", tiny_data, "--out", tmp_path / "run", *TINY, "--steps", "3"]
    result = run(*begin, "--stop-after", "2", "--json")
    assert result.exit_code == 0, result.output
    printed = last_line(result)
    assert set(printed) == {
        "run",
        "steps",
        "seconds",
        "seconds_per_step_median",
        "peak_rss_mb",
        "resumed_from",
    }
    assert (printed["run"], printed["steps"]) == (str(tmp_path / "run"), 2)
    assert printed["resumed_from"] is None
    assert "research use only" in result.stdout
    resumed = last_line(run("train", tiny_data, "--out", tmp_path / "run", "--resume", "--json"))
    assert (resumed["steps"], resumed["resumed_from"]) == (3, 2)
    done = run("train", tiny_data, "--out", tmp_path / "run", "--resume", "--json")
    assert last_line(done)["seconds_per_step_median"] is None


def test_train_may_start_from_a_model(tmp_path, tiny_data, tiny_run, tiny_config):
    (tmp_path / "config.yaml").write_text((tiny_run / "config.yaml").read_text())
    arguments = ("--config", tmp_path / "config.yaml", "--init", tiny_run, "--steps", 1)
    result = run("train", tiny_data, "--out", tmp_path / "run", *arguments, "--json")
    assert last_line(result)["steps"] == 1


@pytest.mark.parametrize("preset", ["paper", "default", "small"])
def test_printed_configuration_is_taken_back(tmp_path, preset):
    printed = run("train", "--print-config", "--preset", preset, "--set", "loss.cycle=7")
    assert printed.exit_code == 0
    assert not printed.stderr
    (tmp_path / "mine.yaml").write_text(printed.stdout)
    again = run("train", "--print-config", "--config", tmp_path / "mine.yaml", "--json")
    *lines, output = again.stdout.splitlines()
    assert lines == printed.stdout.splitlines()
    assert json.loads(output) == load_config(preset, overrides=["loss.cycle=7"]).model_dump()


def test_length_of_the_schedule_is_in_the_configuration():
    steps = last_line(run("train", "--print-config", "--steps", 9, "--json"))
    epochs = last_line(run("train", "--print-config", "--epochs", 5, "--json"))
    assert (steps["train"]["steps"], epochs["train"]["epochs"]) == (9, 5)
    assert epochs["train"]["steps"] is None


def test_translate_says_what_it_wrote(tmp_path, tiny_run, tiny_data):
    arguments = ("--model", tiny_run, "--to", "mr")
    result = run("translate", tiny_data / "testA", tmp_path / "out", *arguments, "--json")
    printed = last_line(result)
    assert (printed["written"], printed["skipped"], printed["output"]) == (
        3,
        [],
        str(tmp_path / "out"),
    )
    assert {"warned", "seconds"} <= printed.keys()
    assert "research use only" in result.stdout
    assert not result.stderr


def test_translate_takes_only_what_the_pattern_matches(tmp_path, tiny_run, tiny_data):
    arguments = (
        "translate",
        tiny_data / "testA",
        tmp_path / "out",
        "--model",
        tiny_run,
        "--to",
        "mr",
    )
    assert last_line(run(*arguments, "--only", "*_01*", "--json"))["written"] == 1
    assert (tmp_path / "out" / "head_01.png").exists()
    words = ("found none among 3, such as head_00.png, head_01.png, head_02.png",)
    assert_fails(run(*arguments, "--only", "HEAD*"), 2, *words)


def test_evaluate_writes_beside_the_run_and_prints_a_table(tmp_path, tiny_run, tiny_pairs):
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(tiny_pairs, tmp_path / "answers")  # the truth itself
    result = run(
        "evaluate", tmp_path / "run", tiny_pairs, "--answers", f"again={tmp_path}/answers", "--json"
    )
    printed = last_line(result)
    assert printed == json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    for words in ("ct-to-mr, 4 patients", "mae, grey", "MAE of mean image less the model's"):
        assert words in result.stdout
    assert printed["directions"]["mr-to-ct"]["others"]["again"]["mae"]["mean"] == 0
    one = run(
        "evaluate", tiny_run, tiny_pairs, "--direction", "mr-to-ct", "--out", tmp_path / "one"
    )
    assert one.exit_code == 0
    assert "ct-to-mr" not in one.stdout
    assert (tmp_path / "one" / "metrics.csv").exists()


def test_report_says_where_it_is(tmp_path, tiny_run):
    shutil.copytree(tiny_run, tmp_path / "run")
    printed = last_line(run("report", tmp_path / "run", "--json"))
    assert printed == {"report": str(tmp_path / "run" / "report.html")}


# Mistakes and their exit codes


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "DATA", "--out", "RUN", "--preset", "smal"], "did you mean 'small'"),
        (["train", "DATA", "--out", "RUN", "--set", "train.batchsize=2"], "train.batch_size"),
        (["train", "DATA", "--out", "RUN", "--set", "data.size"], "key=value"),
        (["train", "DATA", "--out", "RUN", "--steps", "0"], "train.steps = 0"),
        (["train", "DATA", "--out", "RUN", "--config", "none.yaml"], "none.yaml"),
        (["train", "DATA", "--out", "RUN", "--resume"], "expected a run with config.yaml"),
        (["train", "DATA"], "--out is missing"),
        (["train", "--out", "RUN"], "DATA is missing"),
        (["train"], "DATA is missing"),
        (["synth", "OUT", "--subjects", "0"], "subjects must be 1 to"),
        (["synth", "OUT", "--size", "8"], "size must be 32 to 1024: got 8"),
        (["report", "none"], "expected a run folder"),
    ],
)
def test_wrong_usage_ends_with_2(tmp_path, monkeypatch, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert_fails(run(*arguments), 2, word)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["train", "--stpes", "3"],
        ["translate"],
        ["translate", "a", "b", "--model", "m", "--to", "us"],
        ["synth", "OUT", "--format", "gif"],
        ["train", "DATA", "--steps", "many"],
        [],
    ],
)
def test_wrong_command_line_ends_with_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).exit_code == 2
    assert not list(tmp_path.iterdir())


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the program as a shell does; its exit code."""
    monkeypatch.setattr(sys, "argv", ["ctmr", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_wrong_option_is_one_line_in_the_form_of_all_errors(monkeypatch, capsys):
    assert start(monkeypatch, "train", "--stpes", "3", "--json") == 2
    out, err = capsys.readouterr()
    assert err.startswith("error[E200]: no such option: --stpes")
    assert err.endswith(". Fix: see ctmr train --help.\n")
    assert err.count("\n") == 1
    content = json.loads(out)
    assert (content["code"], content["exit"], content["fix"]) == (
        "E200",
        2,
        "see ctmr train --help",
    )


def test_program_without_a_command_shows_its_help(monkeypatch, capsys):
    assert start(monkeypatch) in (0, 2)
    shown = "".join(capsys.readouterr())
    assert "Commands:" in shown
    assert "error[" not in shown


def test_program_ends_with_the_code_of_the_command(monkeypatch, capsys):
    assert start(monkeypatch, "train") == 2
    assert start(monkeypatch, "train", "--print-config") == 0
    assert start(monkeypatch, "--help") == 0
    assert capsys.readouterr().err.startswith("error[E200]: DATA is missing")


def test_bad_input_ends_with_3(tmp_path, tiny_run, tiny_pairs):
    source = tmp_path / "in"
    image(source / "good.png")
    for name in ("bad1.png", "bad2.png"):
        (source / name).write_bytes(b"")
    arguments = [
        "translate",
        source,
        tmp_path / "out",
        "--model",
        tiny_run,
        "--to",
        "ct",
        "--anyway",
    ]
    assert_fails(run(*arguments), 3, "bad1.png", "bad2.png", "--on-error skip")
    assert not (tmp_path / "out").exists()

    skipped = run(*arguments, "--on-error", "skip")
    assert_fails(skipped, 3, "2 inputs were skipped", "bad1.png", "bad2.png")
    assert (tmp_path / "out" / "good.png").exists()
    assert "1 scan written" in skipped.stdout

    deep = image(tmp_path / "deep.png", depth=16)
    arguments = ["translate", deep, tmp_path / "o.png", "--model", tiny_run, "--to", "mr"]
    assert_fails(run(*arguments), 3, "deep.png", "expected CT with 8-bit values")
    assert_fails(run("evaluate", tiny_run, tmp_path), 3, "give a folder of pairs, with ct/ and mr/")
    assert_fails(run("train", tmp_path, "--out", tmp_path / "run"), 3, "trainA", "trainB")
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_written_ends_with_4(tmp_path, tiny_run, tiny_data):
    (tmp_path / "file").write_text("mine")
    below = tmp_path / "file" / "out"
    model = ("--model", tiny_run, "--to", "mr")
    assert_fails(run("translate", tiny_data / "testA", below, *model), 4, "cannot write it")
    assert_fails(run("synth", tmp_path), 4, "expected a new or empty folder")
    assert_fails(run("synth", below, "--subjects", 1), 4, "cannot write it")
    assert_fails(run("fetch", "kaggle", tmp_path), 4, "expected a new or empty folder")
    assert_fails(run("train", tiny_data, "--out", below, *TINY), 4, "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_damaged_model_ends_with_5(tmp_path, tiny_run, tiny_pairs):
    model = Path(shutil.copytree(tiny_run / "model", tmp_path / "model"))
    weights = model / "generator_mr_to_ct.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert_fails(run("evaluate", model, tiny_pairs), 5, weights.name, "damaged: expected sha256")
    assert_fails(run("evaluate", tmp_path / "none", tiny_pairs), 5, "model.json")


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["train", "none"]),
        (3, ["train", "none", "--out", "run"]),
        (4, ["synth", "."]),
        (5, ["translate", "a", "b", "--to", "mr", "--model", "none"]),
    ],
)
def test_error_is_one_object_with_json(tmp_path, monkeypatch, code, arguments):
    (tmp_path / "something").write_text("x")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "--json")
    assert_fails(result, code)
    printed = last_line(result)
    assert set(printed) == {"code", "file", "what", "fix", "exit"}
    assert (printed["code"], printed["exit"]) == (f"E{code}00", code)
    place = f"{printed['file']}: " if printed["file"] else ""
    assert (
        result.stderr
        == f"error[{printed['code']}]: {place}{printed['what']}. Fix: {printed['fix']}.\n"
    )


def test_skipped_inputs_are_the_object_with_json(tmp_path, tiny_run):
    source = tmp_path / "in"
    image(source / "good.png")
    (source / "bad.png").write_bytes(b"")
    arguments = ["translate", source, tmp_path / "out", "--model", tiny_run, "--to", "ct"]
    result = run(*arguments, "--on-error", "skip", "--json")
    assert result.exit_code == 3
    assert set(last_line(result)) == {"code", "file", "what", "fix", "exit"}
    assert "bad.png" in last_line(result)["what"]


def test_debug_shows_the_traceback_of_an_error():
    result = run("train", "none", "--out", "run", "--debug")
    assert result.exit_code == 3
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error[E300]: none: ")


# What nobody expects: a function of ours is made to fail, since no input does it


def breaking(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(run: Path, *, overwrite: bool = False) -> Path:
        raise error

    monkeypatch.setattr("ctmr.reporting.run_report.write_report", fail)


def test_bug_ends_with_1_and_leaves_a_crash_log(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cause = ValueError("could not convert string to float: 'JOHN DOE'")
    error = KeyError("JOHN\nDOE")
    error.__cause__ = cause
    breaking(monkeypatch, error)
    result = run("report", "x", "--json")
    assert_fails(result, 1, "unexpected KeyError in test_cli.py, line ")
    (crash,) = tmp_path.glob("ctmr-crash-*.txt")
    assert str(crash) in result.stderr
    text = crash.read_text()
    assert "Traceback (most recent call last)" in text
    assert "\nValueError\n" in text
    assert crash.stat().st_mode & 0o777 == 0o600
    assert "DOE" not in text + result.output
    assert (last_line(result)["code"], last_line(result)["exit"]) == ("E100", 1)


def test_bug_with_debug_shows_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    breaking(monkeypatch, KeyError("its text"))
    result = run("report", "x", "--debug")
    assert result.exit_code == 1
    assert "its text" in result.stderr
    assert "Traceback (most recent call last)" in result.stderr


class OutOfMemoryError(RuntimeError):
    """Called as torch calls its own."""


WANTS = [
    MemoryError(),
    OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", WANTS)
def test_want_of_memory_ends_with_7(monkeypatch, error):
    breaking(monkeypatch, error)
    assert_fails(run("report", "x"), 7, "out of memory", "train.batch_size")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (3, PermissionError(errno.EACCES, "Permission denied", "some/file")),
        (3, IsADirectoryError(errno.EISDIR, "Is a directory", b"some/file")),
        (4, OSError(errno.ENOSPC, "No space left on device", "some/file")),
        (4, OSError(errno.EROFS, "Read-only file system", "some/file")),
    ],
)
def test_what_the_system_refuses_is_no_bug_and_names_the_file(monkeypatch, code, error):
    breaking(monkeypatch, error)
    assert_fails(run("report", "x"), code, "some/file: ", error.strerror)


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", LONG, "--out", "run"),
        ("prepare", LONG, "store"),
        ("audit", LONG),
        ("report", LONG),
        ("evaluate", LONG, "pairs"),
        ("translate", LONG, "out", "--model", "m", "--to", "mr"),
    ],
)
def test_path_too_long_is_bad_input(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code in (3, 5), result.output
    assert list(tmp_path.iterdir()) == []


def test_interruption_ends_with_130(monkeypatch):
    breaking(monkeypatch, KeyboardInterrupt())
    result = run("report", "x", "--json")
    assert_fails(result, 130, "interrupted at once")
    assert (last_line(result)["code"], last_line(result)["exit"]) == ("E130", 130)
