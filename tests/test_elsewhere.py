"""The program where Linux's own things are missing: locks, limits, signals, the exchange of folders, HOME and passwd."""

import os
import subprocess
import sys

# In place of another system: what is taken away is gone before ctmr is imported.
ELSEWHERE = """
import ctypes, os, pwd, signal, sys

for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, name in ((signal, "SIGHUP"), (signal, "SIGUSR1"), (os, "pidfd_open")):
    if hasattr(module, name):
        delattr(module, name)

def nobody(_):
    raise KeyError("no entry")

pwd.getpwuid = nobody

class Library(ctypes.CDLL):
    def __init__(self, name, *rest, **options):
        if name is None:
            raise TypeError("it needs a name")
        super().__init__(name, *rest, **options)

ctypes.CDLL = Library
"""
PROGRAM = ELSEWHERE + "from ctmr.cli import main; main()"


def elsewhere(*arguments, script=PROGRAM, cache=None):
    """What a command writes on both streams, for a user without HOME."""
    environment = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS")}
    if cache is not None:
        environment["CTMR_CACHE"] = str(cache)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_import_and_help_need_nothing_of_linux():
    names = "import ctmr; [getattr(ctmr, name) for name in ctmr.__all__]"
    assert elsewhere(script=ELSEWHERE + names)[0] == ""
    assert "Usage: ctmr" in elsewhere("--help")[0]


def test_translate_needs_nothing_of_linux(tiny_run, tiny_data, tmp_path):
    out = tmp_path / "out"
    _, content = elsewhere("translate", tiny_data / "testA", out, "--model", tiny_run, "--to", "mr")
    assert "Traceback" not in content
    assert len(list(out.glob("head_??.png"))) == 3


def test_evaluate_needs_nothing_of_linux(tiny_run, tiny_pairs, tmp_path):
    options = ("--out", tmp_path / "evaluation")
    elsewhere("evaluate", tiny_run, tiny_pairs, *options, cache=tmp_path / "cache")
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


def test_training_says_in_one_line_what_it_lacks(tiny_run, tiny_data, tmp_path):
    run = tmp_path / "run"
    options = ("--config", tiny_run / "config.yaml", "--steps", 2)
    _, content = elsewhere("train", tiny_data, "--out", run, *options, cache=tmp_path / "cache")
    lines = [line for line in content.splitlines() if "lock" in line]
    assert lines == [
        f"WARNING: {run}: no locks there (this system has none), so that only one process may train in"
        " it"
    ]
    assert "Traceback" not in content
    assert (run / "model" / "model.json").is_file()
