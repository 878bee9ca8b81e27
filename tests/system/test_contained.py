"""That libraries keep to themselves; `tests/faults/test_outside.py` sees it in the system calls of all commands."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from ctmr.system.contained import without_telemetry

# The folders of matplotlib after ctmr has imported it, and what is left of it in the process.
DRAWS = """
import json, os, sys
before = dict(os.environ)
from ctmr.reporting import curves, figures
assert before == dict(os.environ)
import matplotlib
print(json.dumps([matplotlib.matplotlib_fname(), matplotlib.rcParams["figure.dpi"], matplotlib.get_cachedir()]))
"""


def draws(home, **env):
    kept = {"PATH": os.environ["PATH"], "HOME": str(home), **env}
    done = subprocess.run(
        [sys.executable, "-c", DRAWS], capture_output=True, text=True, env=kept, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_list_of_fonts_goes_to_the_cache_and_a_matplotlibrc_holds(tmp_path):
    own = tmp_path / ".config" / "matplotlib" / "matplotlibrc"
    own.parent.mkdir(parents=True)
    own.write_text("figure.dpi: 77\n")
    found = draws(tmp_path, CTMR_CACHE=str(tmp_path / "cache"))
    assert [
        path.name.partition("-")[0] for path in (tmp_path / "cache" / "matplotlib").iterdir()
    ] == ["fontlist"]
    # What the program does with matplotlib afterwards has its own settings and its own folder.
    assert found == [str(own), 77.0, str(tmp_path / ".cache" / "matplotlib")]


def test_list_of_fonts_goes_nowhere_if_there_is_no_cache(tmp_path):
    (tmp_path / "file").touch()
    draws(tmp_path, CTMR_CACHE=str(tmp_path / "file" / "cache"), MATPLOTLIBRC=os.devnull)
    assert not (tmp_path / ".cache" / "ctmr").exists()


def test_list_of_fonts_goes_where_the_user_says(tmp_path):
    draws(tmp_path, CTMR_CACHE=str(tmp_path / "cache"), MPLCONFIGDIR=str(tmp_path / "own"))
    assert [path.name.partition("-")[0] for path in (tmp_path / "own").iterdir()] == ["fontlist"]
    assert not (tmp_path / "cache").exists()


def test_telemetry_is_missing_only_within(monkeypatch):
    def missing():
        try:
            return importlib.util.find_spec("openvino_telemetry") is None
        except ValueError:  # what it says of None among the modules
            return True

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    before = sys.modules.get("openvino_telemetry")
    with without_telemetry():
        assert missing()
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert sys.modules.get("openvino_telemetry") is before
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    with pytest.raises(KeyError), without_telemetry():
        raise KeyError
    assert sys.modules.get("openvino_telemetry") is before
