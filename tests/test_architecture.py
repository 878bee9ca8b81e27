"""The house stands as docs/architecture.md draws it: the order of imports, and what no module does."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "ctmr"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

FILES = {path.stem: path for path in SOURCE.rglob("*.py")}
# `- `name.py`: what it is` and, of the longer files, `| `name.py` | why |`.
LISTED = re.findall(r"^- `(\w+)\.py`: \S.*\.$", PAGE, re.MULTILINE)
LONGER = re.findall(r"^\| `(\w+)\.py` \| \S", PAGE, re.MULTILINE)
MOST_LINES = 400

# Drawing from these without a generator of one's own takes numbers from, or changes, global state.
DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("normal_", "uniform_", "random_", "bernoulli_", "exponential_"),
}
# All that numpy.random offers without global state.
STATELESS = {"Generator", "PCG64", "SeedSequence", "default_rng"}

every_module = pytest.mark.parametrize("name", sorted(FILES))


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """Modules of ctmr that a module imports anywhere, `__init__` where only the package is named."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py:{node.lineno}: relative import"
            package, _, module = (node.module or "").partition(".")
            if package == "ctmr":
                names = [module] if module else [alias.name for alias in node.names]
                found |= {each if each in FILES else "__init__" for each in names}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, _, module = alias.name.partition(".")
                if package == "ctmr":
                    found.add(module or "__init__")
    return found


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression, empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls(name: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a module with the name of what is called; `.name` where that is no plain name."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield dotted(node.func) or f".{node.func.attr}", node
            else:
                yield dotted(node.func), node


def outside_imports(name: str) -> set[str]:
    """Modules of others that a module imports."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_every_module_is_listed_once_and_every_listed_one_exists() -> None:
    assert len(LISTED) == len(set(LISTED))
    assert set(LISTED) == set(FILES)


@every_module
def test_module_imports_only_what_stands_above_it(name: str) -> None:
    below = set(LISTED[LISTED.index(name) :])
    assert sorted(imports(name) & below) == []


@every_module
def test_module_is_at_most_400_lines_long_or_says_why(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert (lines > MOST_LINES) == (name in LONGER), f"{lines} lines"


def test_longer_files_that_are_named_exist() -> None:
    assert set(LONGER) <= set(FILES)


@every_module
def test_only_the_command_line_prints(name: str) -> None:
    printing = [node.lineno for called, node in calls(name) if called == "print"]
    assert name in ("cli", "console") or printing == []


@every_module
def test_nothing_is_unpickled_and_nothing_draws_with_pyplot(name: str) -> None:
    assert [node.lineno for called, node in calls(name) if called == "torch.load"] == []
    assert [
        m for m in outside_imports(name) if re.search(r"pyplot|pylab|^pickle|^torch\.load", m)
    ] == []


@every_module
def test_no_text_becomes_code(name: str) -> None:
    modules = r"^(marshal|shelve|dill|joblib|cloudpickle|subprocess|runpy|imp|code)\b"
    assert [m for m in outside_imports(name) if re.search(modules, m)] == []
    running = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.load"}
    running |= {"torch.jit.load", "yaml.unsafe_load", "yaml.full_load"}
    for called, node in calls(name):
        where = f"{name}.py:{node.lineno}: {called}"
        assert called not in running, where
        assert not called.startswith(("os.exec", "os.spawn")), where
        if called == "yaml.load":
            loaders = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
            assert loaders == ["_StrictLoader"], where


@pytest.mark.parametrize("verb", ["translate", "batch"])
def test_what_changes_training_images_is_not_within_reach_of_a_translation(verb: str) -> None:
    """`dataset` mirrors; `training` and `dataset` are imported by nothing that translates."""
    reached, waiting = set[str](), [verb]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imports(name) - {"__init__"}
    assert reached & {"dataset", "training"} == set()


@every_module
def test_no_random_number_comes_from_global_state(name: str) -> None:
    assert [m for m in outside_imports(name) if re.match(r"random\b|numpy\.random\b", m)] == []
    for called, node in calls(name):
        where = f"{name}.py:{node.lineno}: {called}"
        head, _, last = called.rpartition(".")
        keywords = {keyword.arg for keyword in node.keywords}
        if head in ("np.random", "numpy.random"):
            assert last in STATELESS, where
            assert node.args or keywords, where
        if head in ("torch", "torch.random", "torch.cuda"):
            assert last not in ("manual_seed", "manual_seed_all", "seed"), where
        if (head.startswith("torch") or head.endswith("init")) and last in DRAWS:
            assert "generator" in keywords, where


@every_module
def test_only_distributed_knows_lightning_fabric(name: str) -> None:
    knows = [module for module in outside_imports(name) if module.startswith("lightning")]
    assert name == "distributed" or knows == []


@every_module
def test_nothing_asks_what_time_it_is(name: str) -> None:
    """No logic on the wall clock (faults.md, R20): durations come from a clock that only goes forward."""
    asked = {"time.time", "time.localtime", "time.ctime", "datetime.now", "datetime.datetime.now"}
    asked |= {"datetime.today", "datetime.utcnow", "date.today", "datetime.date.today"}
    assert [(node.lineno, called) for called, node in calls(name) if called in asked] == []
    assert {"time.time", "time.localtime"} & outside_imports(name) == set()
