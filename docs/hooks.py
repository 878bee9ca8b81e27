"""Pages that mkdocs writes from the program itself, so that they cannot differ from it."""

import re
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from ctmr.cli.app import app
from ctmr.cli.pages import errors_page, settings_page

SOURCE = Path(__file__).parents[1] / "src"
DOCS = Path(__file__).parent
README = Path(__file__).parents[1] / "README.md"
CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
# Title, what it is, and the classes whose fields are its keys.
FILES = (
    (
        "NAME.json",
        "It lies beside each translated scan. The pages on [pictures](../how-to/images.md#beside-a-translation) and"
        " [volumes](../how-to/nifti.md#what-you-see) explain its keys.",
        ("results.Sidecar", "results.JudgedTranslation"),
    ),
    (
        "metrics.json",
        "What `ctmr evaluate` writes. In a direction the figures stand among the other keys, each a `Summary`."
        " [How the figures are taken](../how-to/measure-with-pairs.md#how-the-figures-are-taken) explains them.",
        (
            *(
                "results.Metrics",
                "results.Evaluated",
                "results.DirectionMetrics",
                "results.Summary",
            ),
            *("results.Definition", "results.Correlation", "results.Distances", "results.Lesions"),
            *("results.LesionDirection", "results.LesionFigures", "results.LesionShares"),
            "results.Share",
        ),
    ),
    ("evaluations.jsonl", "A line for each evaluation of a run.", ("results.EvaluationLine",)),
    (
        "audit.json",
        "What `ctmr audit` writes.",
        ("results.AuditReport", "results.Finding", "results.Cleaned"),
    ),
    ("model.json", "What a model folder says of its networks.", ("models.card.Card",)),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in the folder; mkdocs calls this."""
    pages = {
        "reference/cli.md": cli_page(),
        "reference/settings.md": settings_page(),
        "reference/files.md": files_page(),
        "reference/errors.md": errors_page(),
        "changelog.md": changelog_page(),
        "index.md": index_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def cli_page() -> str:
    """Every command, as `--help` prints it."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    parts = ["# Commands", "What `ctmr COMMAND --help` prints."]
    for name in commands:
        shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [name, "--help"], prog_name="ctmr")
        parts += [f"## ctmr {name}", f"```text\n{shown.stdout.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def files_page() -> str:
    """Every key of the JSON files, with its type and its meaning."""
    parts = [
        "# JSON files",
        "The keys of what is written beside images and weights. `null` may stand where `None` does.",
    ]
    for title, lead, names in FILES:
        parts += [f"## {title}", lead]
        for name in names:
            module, _, kind = name.rpartition(".")
            parts += [
                f"### {kind}",
                _keys(griffe.load(f"ctmr.{module}", search_paths=[SOURCE])[kind]),
            ]
    return "\n\n".join(parts) + "\n"


def _keys(kind: Any) -> str:
    """What a class is, and a table of its fields: docstrings stand behind them or under `Attributes:`."""
    sections = kind.docstring.parse("google")
    listed = [section.value for section in sections if section.kind.value == "attributes"]
    said = {each.name: each.description for each in listed[0]} if listed else {}
    rows = ["| key | type | meaning |", "|---|---|---|"]
    for name, each in kind.attributes.items():
        if name.startswith("_") or name == "model_config" or "property" in each.labels:
            continue
        meaning = each.docstring.value if each.docstring else said.get(name, "")
        kind_of = str(each.annotation).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind_of} | {' '.join(meaning.split())} |")
    return _linked(sections[0].value) + "\n\n" + "\n".join(rows)


def _linked(text: str) -> str:
    """A text of the program, in which `ctmr help TOPIC` is a link to that page."""
    pages = {file.stem: file for file in DOCS.rglob("*.md")}

    def link(found: re.Match[str]) -> str:
        return f"[{found[0]}](../{pages[found[1]].relative_to(DOCS)})"

    return re.sub(r"`ctmr help ([a-z-]+)`", link, text)


def index_page() -> str:
    """The README, its links turned to where this page is; what lies outside the pages is only named."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\[([^]]+)\]\((?:LICENSE|NOTICE|CITATION\.cff)\)", r"`\1`", text)


def changelog_page() -> str:
    """The changelog, its links turned to where this page is."""
    return CHANGELOG.read_text(encoding="utf-8").replace("](docs/", "](")
