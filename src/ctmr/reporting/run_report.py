"""One self-contained HTML page for a run: no request leaves it, and no text in it is markup."""

import base64
import hashlib
import operator
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ctmr.config import Config
from ctmr.errors import DataError, UsageError
from ctmr.reporting.evaluation_section import evaluation_section
from ctmr.reporting.html import escaped, picture, table
from ctmr.system.files import read_log
from ctmr.system.ownership import LOSS_CURVES, require_own, write_own
from ctmr.system.yaml import read_yaml

MOST_GRIDS = 40
MOST_GRID_BYTES = 32_000_000  # of PNG in one page; browsers open a page of 45 MB without trouble
PAPER_STEPS = {0, 5000, 10000, 15000}  # Li 2023, figures 4 to 7: shown where they are there
MOST_OVERLAPS = 50
RECENT = 100  # logged lines whose mean is shown beside the last value
SAMPLE = re.compile(r"step_(\d+)\.png")
LOSSES = {
    "loss_g": "Generators, equation (4)",
    "gan": "L_GAN, equation (1)",
    "cycle": "L_cyc, equation (2)",
    "identity": "L_identity, equation (3)",
    "loss_d_ct": "Discriminator of CT, equation (5)",
    "loss_d_mr": "Discriminator of MRI, equation (5)",
}


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
    require_own([page, *(run / name for name in LOSS_CURVES)], overwrite=overwrite)
    rows = read_log(run / "log.jsonl")
    package = resources.files("ctmr.reporting") / "templates"
    script = (package / "report.js").read_text(encoding="utf-8")
    text = Template((package / "report.html.template").read_text(encoding="utf-8")).substitute(
        name=escaped(run.resolve().name),
        tiles=_tiles(rows) + _overlap(run / "overlap.json"),
        grids=_grids(run / "samples"),
        curves=_curves(run, rows, overwrite),
        evaluation=evaluation_section(run / "evaluation"),
        losses=_losses(rows),
        config=_config(read_yaml(run / "config.yaml")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_own(page, text.encode(), overwrite=overwrite)
    return page


def _tiles(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figures one asks for first."""
    if not rows:
        return "<p>No step is logged yet.</p>"
    last = rows[-1]
    tiles = [("steps", f"{last['step']:,}")]
    if "epoch" in last:
        tiles.append(("epoch", f"{last['epoch']:.4g}"))
    seconds = _known(rows, "seconds_per_step")
    if seconds:
        tiles.append(("seconds a step (median)", f"{statistics.median(seconds):.3g}"))
    waits = _known(rows, "data_wait")  # shares of `seconds_per_step`
    if len(waits) == len(seconds) > 0:
        share = sum(map(operator.mul, waits, seconds)) / sum(seconds)
        tiles.append(("of the time waiting for data", f"{share:.1%}"))
    if "lr" in last:
        tiles.append(("learning rate", f"{last['lr']:.3g}"))
    items = (
        f"<li><b>{escaped(value)}</b><span>{escaped(name)}</span></li>" for name, value in tiles
    )
    return f'<ul class="tiles">{"".join(items)}</ul>'


def _overlap(file: Path) -> str:
    """The test images that are training images too, or of the same patients, if the run has any."""
    if not file.is_file():
        return ""
    try:
        both = TypeAdapter(list[_Leak]).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            "expected a list of leaks: found another file", file=file, fix="remove it"
        ) from error
    shown = "".join(
        f"<tr><th scope='row'>{escaped(its.test)}</th><td>{escaped(its.train)}</td>"
        f"<td>{escaped(its.why)}</td></tr>"
        for its in both[:MOST_OVERLAPS]
    )
    more = f", the first {MOST_OVERLAPS} of them" if len(both) > MOST_OVERLAPS else ""
    return (
        f'<h2>Leaks</h2><p class="warning">{len(both):,} test images are in the training folders too, or of the'
        f" same patients{more}: figures on them flatter. <code>ctmr audit --clean</code> makes a split without.</p>"
        + table(["test", "training", "why"], shown)
    )


def _grids(samples: Path) -> str:
    """The sample grids with a slider over the steps."""
    found = {
        int(match[1]): path
        for path in samples.glob("step_*.png")
        if (match := SAMPLE.fullmatch(path.name))
    }
    if not found:
        return ""
    steps = _chosen(found)
    images = "".join(
        picture(found[step], f"step {step:,}", hidden=step != steps[-1]) for step in steps
    )
    end = len(steps) - 1
    return (
        "<h2>Sample grids</h2>"
        '<p class="soft">The same held-out images at each step; rows from top to bottom: CT, CT to MRI, MRI,'
        " MRI to CT.</p>"
        '<div class="slider"><label for="moment">Time</label>'
        f'<input type="range" id="moment" min="0" max="{end}" value="{end}" autocomplete="off">'
        f'<output id="step" for="moment">step {steps[-1]:,}</output></div>'
        f'<div class="grids" id="grids">{images}</div>'
        f'<p class="soft hint">{len(steps)} of {len(found)} grids. Arrow keys move the slider; a click on the grid'
        " shows it at full size.</p>"
    )


def _chosen(found: Mapping[int, Path]) -> list[int]:
    """The steps that are shown: evenly spaced, with the first, the last and the paper's."""
    steps = sorted(found)
    largest = max(path.stat().st_size for path in found.values())
    most = max(2, min(MOST_GRIDS, MOST_GRID_BYTES // max(1, largest)))
    if len(steps) <= most:
        return steps
    even = {steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)}
    return sorted(even | (found.keys() & PAPER_STEPS))


def _curves(run: Path, rows: Sequence[Mapping[str, Any]], overwrite: bool) -> str:
    if not rows:
        return ""
    from ctmr.reporting.curves import loss_curves  # matplotlib takes a second to import
    from ctmr.reporting.figures import save

    images = []
    for name, figure in loss_curves(rows).items():
        save(figure, run / name, overwrite=overwrite)
        images.append(picture(run / name, name.removesuffix(".png").replace("_", " ")))
    curves = f'<h2>Loss curves</h2><div class="curves">{"".join(images)}</div>'
    if (run / "evaluations.png").is_file():
        shown = picture(run / "evaluations.png", "figures of the evaluations while training")
        curves += f'<h2>Evaluations</h2><div class="comparison">{shown}</div>'
    return curves


def _losses(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    recent = rows[-RECENT:]
    body = "".join(
        f"<tr><th scope='row'>{name}</th><td>{rows[-1][key]:.4g}</td>"
        f"<td>{statistics.mean(_known(recent, key)):.4g}</td></tr>"
        for key, name in LOSSES.items()
        if _known(rows[-1:], key)
    )
    heads = [f"at step {rows[-1]['step']:,}", f"mean of the last {len(recent)} lines"]
    return "<h2>Losses</h2>" + table(heads, body)


def _config(settings: Mapping[str, Any]) -> str:
    """The configuration, each setting with its meaning where this version knows it."""
    meanings = _meanings(Config)
    body = "".join(
        f"<tr><th scope='row'>{escaped(key)}</th><td>{escaped('none' if value is None else value)}</td>"
        f'<td class="meaning">{escaped(meanings.get(key, "").replace("`", ""))}</td></tr>'
        for key, value in _flat(settings)
    )
    return f'<h2>Configuration</h2><table class="config"><tbody>{body}</tbody></table>'


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted key and value of every setting."""
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        pairs += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return pairs


def _meanings(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The docstring of every setting under its dotted key."""
    meanings: dict[str, str] = {}
    for key, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            meanings |= _meanings(kind, f"{prefix}{key}.")
        else:
            meanings[prefix + key] = field.description or ""
    return meanings


def _known(rows: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [float(row[key]) for row in rows if isinstance(row.get(key), int | float)]
