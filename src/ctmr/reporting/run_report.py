"""One self-contained HTML page for a run: no request leaves it, and no text in it is markup."""

import operator
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ctmr.config import Config
from ctmr.errors import DataError, UsageError
from ctmr.reporting.evaluation_section import evaluation_section
from ctmr.reporting.html import render
from ctmr.system.files import read_log
from ctmr.system.ownership import LOSS_CURVES, require_own, write_own
from ctmr.system.yaml import read_yaml

MAX_GRIDS = 40
MAX_GRID_BYTES = 32_000_000  # of PNG in one page; browsers open a page of 45 MB without trouble
PAPER_STEPS = {0, 5000, 10000, 15000}  # Li 2023, figures 4 to 7: shown where they are there
RECENT = 100  # logged lines whose mean is shown beside the last value
SAMPLE = re.compile(r"step_(\d+)\.png")
READ = (
    *("config.yaml", "log.jsonl", "overlap.json", "samples"),
    *("evaluations.png", "evaluation"),
)


class _Leak(BaseModel):
    """A training and a test image that are the same, or of one patient."""

    train: str
    test: str
    why: str


def write_report(run: Path, *, overwrite: bool = False) -> Path:
    """Draw the loss curves of a run anew and write its `report.html`.

    Args:
        run: Folder with config.yaml; log.jsonl, samples/ and evaluation/ are shown as far as they are there.
        overwrite: Replace files of these names too that are not the run's, where the folder has no `run.lock`.

    Returns:
        Path of the page.

    Raises:
        UsageError: If there is no such folder, or its config.yaml is not plain YAML.
        DataError: If it is not a run, or its overlap.json or evaluation/metrics.json is damaged.
        OutputError: If the page cannot be written.
    """
    if not run.is_dir():
        raise UsageError(
            "expected a run folder, found none", file=run, fix="name the --out of ctmr train"
        )
    if not (run / "config.yaml").is_file():
        raise DataError(
            "expected a run with config.yaml, found none",
            file=run,
            fix="name the folder that ctmr train wrote with --out",
        )
    page = run / "report.html"
    pages = [page, *(run / name for name in LOSS_CURVES)]
    require_own(pages, overwrite=overwrite, inputs=[run / name for name in READ])
    rows = read_log(run / "log.jsonl")
    grids = _sample_grids(run / "samples")
    evaluations = run / "evaluations.png"
    text = render(
        "run.html",
        {
            "name": run.resolve().name,
            "totals": _totals(rows),
            "leaks": _leaks(run / "overlap.json"),
            "grids": {step: grids[step].read_bytes() for step in _chosen(grids)},
            "grids_found": len(grids),
            "curves": _curves(run, rows, overwrite),
            "evaluations": evaluations.read_bytes() if evaluations.is_file() else None,
            "evaluation": evaluation_section(run / "evaluation"),
            "losses": _losses(rows),
            "recent": len(rows[-RECENT:]),
            "settings": _settings(read_yaml(run / "config.yaml"), Config),
        },
    )
    write_own(page, text.encode(), overwrite=overwrite)
    return page


def _totals(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What one asks for first: value and name, none before the first step."""
    if not rows:
        return []
    last = rows[-1]
    totals = [(f"{last['step']:,}", "steps")]
    if "epoch" in last:
        totals.append((f"{last['epoch']:.4g}", "epoch"))
    seconds = _known(rows, "seconds_per_step")
    if seconds:
        totals.append((f"{statistics.median(seconds):.3g}", "seconds a step (median)"))
    waits = _known(rows, "data_wait")  # shares of `seconds_per_step`
    if len(waits) == len(seconds) > 0:
        share = sum(map(operator.mul, waits, seconds)) / sum(seconds)
        totals.append((f"{share:.1%}", "of the time waiting for data"))
    if "lr" in last:
        totals.append((f"{last['lr']:.3g}", "learning rate"))
    return totals


def _losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The last value of each logged number that is not always 0, and its mean over the newest lines."""
    return {
        key: (value, statistics.mean(_known(rows[-RECENT:], key)))
        for key in (rows[-1] if rows else ())
        for value in _known(rows[-1:], key)
        if any(_known(rows, key))
    }


def _leaks(file: Path) -> list[_Leak]:
    """The test images that are training images too, or of the same patients."""
    if not file.is_file():
        return []
    try:
        return TypeAdapter(list[_Leak]).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            "expected a list of leaks: found another file", file=file, fix="remove it"
        ) from error


def _sample_grids(samples: Path) -> dict[int, Path]:
    """The file of every sample grid, by its step."""
    return {
        int(match[1]): path
        for path in samples.glob("step_*.png")
        if (match := SAMPLE.fullmatch(path.name))
    }


def _chosen(found: Mapping[int, Path]) -> list[int]:
    """The steps that are shown: evenly spaced, with the first, the last and the paper's."""
    steps = sorted(found)
    largest = max((path.stat().st_size for path in found.values()), default=0)
    most = max(2, min(MAX_GRIDS, MAX_GRID_BYTES // max(1, largest)))
    if len(steps) <= most:
        return steps
    even = {steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)}
    return sorted(even | (found.keys() & PAPER_STEPS))


def _curves(run: Path, rows: Sequence[Mapping[str, Any]], overwrite: bool) -> dict[str, bytes]:
    """Draw the loss curves into the run; the PNGs under their names in words."""
    if not rows:
        return {}
    from ctmr.reporting.curves import loss_curves  # matplotlib takes a second to import
    from ctmr.reporting.figures import save

    curves = loss_curves(rows)
    for name, figure in curves.items():
        save(figure, run / name, overwrite=overwrite)
    return {
        name.removesuffix(".png").replace("_", " "): (run / name).read_bytes() for name in curves
    }


def _settings(
    config: Mapping[str, Any], model: type[BaseModel] | None, prefix: str = ""
) -> list[tuple[str, Any, str]]:
    """Dotted key, value and meaning of every setting, as far as this version knows it."""
    settings: list[tuple[str, Any, str]] = []
    for key, value in config.items():
        field = model.model_fields.get(key) if model else None
        if isinstance(value, dict):
            kind = field.annotation if field else None
            inner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
            settings += _settings(value, inner, f"{prefix}{key}.")
        else:
            meaning = (field and field.description) or ""
            settings.append((f"{prefix}{key}", value, meaning.replace("`", "")))
    return settings


def _known(rows: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [float(row[key]) for row in rows if isinstance(row.get(key), int | float)]
