"""The house stands as docs/project/architecture.md draws it; what import-linter and ruff can hold, they hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "ctmr"
FILES = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
MAX_LINES = 400

# Drawing from these without a generator of one's own takes numbers from, or changes, global state.
DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("normal_", "uniform_", "random_", "bernoulli_", "exponential_"),
}
# All that numpy.random offers without global state.
STATELESS = {"Generator", "PCG64", "SeedSequence", "default_rng"}

every_file = pytest.mark.parametrize("name", sorted(FILES))


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression, empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file with the name of what is called; `.name` where that is no plain name."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield dotted(node.func) or f".{node.func.attr}", node
            else:
                yield dotted(node.func), node


def run(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        input=text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def lint_imports(*words: str) -> subprocess.CompletedProcess[str]:
    main = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return run("-c", main, "--no-cache", "--no-logo", *words)


def refused(code: str) -> set[str]:
    """The rules by which ruff refuses code in the package."""
    words = ("--stdin-filename", "src/ctmr/io/new.py", "--output-format", "concise", "-")
    result = run("-m", "ruff", "check", "--no-cache", *words, text=code + "\n")
    return set(re.findall(r"^\S+:\d+:\d+: ([A-Z]+\d+) ", result.stdout, re.MULTILINE))


def test_packages_import_only_from_the_floors_below() -> None:
    result = lint_imports()
    assert result.returncode == 0, result.stdout


def test_what_changes_training_images_is_not_within_reach_of_a_translation() -> None:
    result = lint_imports("--contract", "translation")
    assert result.returncode == 0, result.stdout
    assert "1 kept, 0 broken" in result.stdout


@every_file
def test_file_has_at_most_400_lines(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize(
    "code",
    [
        'eval("1")',
        'exec("pass")',
        'import os\n\nos.system("true")',
        'import os\n\nos.popen("true")',
        'import os\n\nos.execv("true", ["true"])',
        'import os\n\nos.spawnv(os.P_WAIT, "true", ["true"])',
        "import subprocess\n\nsubprocess.Popen",
        "import runpy\n\nrunpy.run_path",
        "import marshal\n\nmarshal.loads",
        "import shelve\n\nshelve.open",
        'import yaml\n\nyaml.load("", yaml.Loader)',
        'import yaml\n\nyaml.unsafe_load("")',
        'import numpy as np\n\nnp.load("a.npy")',
    ],
)
def test_no_text_becomes_code(code: str) -> None:
    assert refused(code) & {"TID251", "S102", "S307", "S506"}


@pytest.mark.parametrize("call", ["compile", "__import__"])
def test_no_builtin_makes_code_of_text(call: str) -> None:
    """These two are names that ruff cannot ban."""
    assert [(name, node.lineno) for name in FILES for c, node in calls(name) if c == call] == []


@pytest.mark.parametrize(
    "code",
    [
        'import torch\n\ntorch.load("a.pt")',
        'import torch\n\ntorch.jit.load("a.pt")',
        "import pickle\n\npickle.loads",
        "from matplotlib import pyplot\n\npyplot.plot",
        "import matplotlib.pyplot as plt\n\nplt.plot",
    ],
)
def test_nothing_is_unpickled_and_nothing_draws_with_pyplot(code: str) -> None:
    assert "TID251" in refused(code)


@pytest.mark.parametrize(
    "code",
    [
        "import time\n\ntime.time()",
        "import time\n\ntime.localtime()",
        "from datetime import datetime\n\ndatetime.now()",
        "import datetime\n\ndatetime.datetime.now()",
        "from datetime import date\n\ndate.today()",
    ],
)
def test_nothing_asks_what_time_it_is(code: str) -> None:
    """No logic on the wall clock: durations come from a clock that only goes forward."""
    assert "TID251" in refused(code)


def test_only_the_command_line_prints() -> None:
    assert "T201" in refused('print("")')


@pytest.mark.parametrize(
    "code",
    [
        "import random\n\nrandom.random()",
        "import torch\n\ntorch.manual_seed(1)",
        "import numpy as np\n\nnp.random.rand(2)",
    ],
)
def test_global_random_numbers_are_refused(code: str) -> None:
    assert refused(code) & {"TID251", "NPY002"}


@every_file
def test_no_random_number_comes_from_global_state(name: str) -> None:
    for called, node in calls(name):
        where = f"{name}:{node.lineno}: {called}"
        head, _, last = called.rpartition(".")
        keywords = {keyword.arg for keyword in node.keywords}
        if head in ("np.random", "numpy.random"):
            assert last in STATELESS, where
            assert node.args or keywords, where
        if (head.startswith("torch") or head.endswith("init")) and last in DRAWS:
            assert "generator" in keywords, where
