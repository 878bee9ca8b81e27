"""The pages of the documents, as they lie in the package or in a checkout, and those made from the program."""

import difflib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctmr import errors
from ctmr.config import PRESETS, Config
from ctmr.training.run_folder import RESUMABLE

_PACKAGE = Path(__file__).parents[1]


def topics() -> dict[str, str]:
    """Title of every page, by topic."""
    found = {topic: make().partition("\n")[0] for topic, make in _MADE.items()}
    for file in _files():
        found[file.stem] = file.read_text(encoding="utf-8").partition("\n")[0]
    return {topic: title.lstrip("# ") for topic, title in sorted(found.items())}


def page(topic: str) -> str:
    """The page of a topic, in Markdown.

    Raises:
        UsageError: If there is none; the nearest is named.
    """
    if topic in _MADE:
        return _MADE[topic]()
    files = {file.stem: file for file in _files()}
    if topic not in files:
        near = difflib.get_close_matches(topic, [*_MADE, *files], n=1, cutoff=0.0)
        raise errors.UsageError(
            f"there is no page {topic!r}", fix=f"try ctmr help {near[0]}, or ctmr help for all"
        )
    return files[topic].read_text(encoding="utf-8")


def _files() -> list[Path]:
    """The pages: `docs` in the installed package, in a checkout that beside `src`."""
    inside = _PACKAGE / "docs"
    return sorted((inside if inside.is_dir() else _PACKAGE.parents[1] / "docs").rglob("*.md"))


def settings_page() -> str:
    """Every setting with its values, its meaning, and whether a resumed run may change it."""
    lead = (
        "`--set key=value` changes a setting, and `--config FILE.yaml` several. The last column says what `--resume` lets you"
        " change. The values that each preset gives are [below](#values-of-the-presets)."
    )
    rows = ["| key | values | meaning | on `--resume` |", "|---|---|---|---|"]
    for key, each in _settings():
        may_change = "may change" if key in RESUMABLE else ""
        rows.append(f"| `{key}` | {_values(each)} | {each['description']} | {may_change} |")
    rows += ["", "## Values of the presets", ""]
    rows += ["`ctmr train --print-config --preset NAME` prints them as a file to edit.", ""]
    rows += [f"| key | {' | '.join(PRESETS)} |", "|---" * (1 + len(PRESETS)) + "|"]
    flat = [_flat(preset.model_dump()) for preset in PRESETS.values()]
    rows += [f"| `{key}` | {' | '.join(each[key] for each in flat)} |" for key in flat[0]]
    return f"# Settings\n\n{lead}\n\n" + "\n".join(rows) + "\n"


def _flat(settings: dict[str, Any]) -> dict[str, str]:
    """Values as YAML writes them, by the whole key."""
    found = dict[str, str]()
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= {f"{key}.{inner}": each for inner, each in _flat(value).items()}
        else:
            found[key] = value if isinstance(value, str) else json.dumps(value)
    return found


def _settings() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = Config.model_json_schema()
    for name, each in schema["properties"].items():
        if "$ref" not in each:
            yield name, each
            continue
        section = schema["$defs"][each["$ref"].rpartition("/")[2]]
        for inner, field in section["properties"].items():
            yield f"{name}.{inner}", field


def _values(each: dict[str, Any]) -> str:
    """The values a setting may have, in words."""
    if "anyOf" in each:
        return ", or ".join(_values(one) for one in each["anyOf"])
    if "enum" in each:
        return ", ".join(f"`{value}`" for value in each["enum"])
    kind = each["type"]
    if kind in ("null", "boolean", "string"):
        return {"null": "`null`", "boolean": "`true`, `false`", "string": "text"}[kind]
    if kind == "integer":
        high = each["maximum"] if "maximum" in each else each["exclusiveMaximum"] - 1
        return f"{each['minimum']} to {high}".replace(str(2**63 - 1), "2^63 - 1")
    above = f">= {each['minimum']:g}" if "minimum" in each else f"> {each['exclusiveMinimum']:g}"
    below = f"<= {each['maximum']:g}" if "maximum" in each else f"< {each['exclusiveMaximum']:g}"
    return f"number {above}, {below}"


def errors_page() -> str:
    """Every kind of error, with its code and the exit code of the program."""
    example = errors.DataError("not a head", file="scan.nii.gz", fix="choose another scan")
    lead = (
        "An error is one line on standard error. It says what was expected and found, where, and what to do."
        " `--debug` adds the traceback. With `--json` the same is an object:"
    )
    others = (
        "Exit code 0 means that all is done. Exit code 1 (`E100`) is a fault of `ctmr` itself; the line names a file to report"
        " it with."
    )
    rows = ["| code | exit code | what | in Python |", "|---|---|---|---|"]
    for kind in _kinds(errors.CtmrError):
        what = (inspect.getdoc(kind) or "").splitlines()[0].rstrip(".")
        exits = "130, 143, 129 or 75" if kind is errors.Stopped else str(kind.exit_code)
        rows.append(f"| `{kind.code}` | {exits} | {what} | `ctmr.errors.{kind.__name__}` |")
    shown = json.dumps(example.as_json(), indent=2)
    head = f"# Errors and exit codes\n\n{lead}\n\n```json\n{shown}\n```\n\n{others}\n\n"
    return head + "\n".join(rows) + "\n"


def _kinds(base: type[errors.CtmrError]) -> Iterator[type[errors.CtmrError]]:
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from _kinds(kind)


_MADE = {"settings": settings_page, "errors": errors_page}
