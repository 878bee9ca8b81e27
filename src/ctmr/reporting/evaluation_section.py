"""The part of a report that shows `metrics.json`: tables of errors, of what is known without the truth, of lesions."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ctmr.errors import DataError
from ctmr.reporting.html import escaped, picture, table
from ctmr.results import Definition, DirectionMetrics, Lesions, Metrics, Share, Summary
from ctmr.system.files import read_regular
from ctmr.types import Direction


def lesion_rows(found: Lesions) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and the rows, as text, of a table of what `lesion_test.lesion_table` found."""
    head = (
        "direction",
        "lesion",
        "survives",
        "without the lesion",
        "invented",
        "invented, healthy",
        "detectable",
        "truth: survives, invented",
    )
    rows: list[tuple[str, ...]] = [
        (
            direction,
            kind,
            _text(its.survives),
            _text(its.healthy.survives),
            _text(its.invented),
            _text(its.healthy.invented),
            _text(its.detectable),
            f"{_percent(its.truth.survives)}, {_percent(its.truth.invented)}",
        )
        for direction, figures in found.directions.items()
        for kind, its in figures.lesions.items()
    ]
    return head, rows


def _text(share: Share) -> str:
    if share.ci95 is None:
        return "n = 0"
    low, high = share.ci95
    return f"{_percent(share)} [{100 * low:.0f}, {100 * high:.0f}] of {share.n}"


def _percent(share: Share) -> str:
    return "-" if share.share is None else f"{100 * share.share:.0f} %"


MAX_BYTES = 10_000_000  # of metrics.json
DIRECTION_NAMES = {"ct-to-mr": "CT to MRI", "mr-to-ct": "MRI to CT"}


def evaluation_section(folder: Path) -> str:
    """Everything in the `metrics.json` of a folder, and its comparison; nothing where there is none.

    Raises:
        DataError: If `metrics.json` is damaged.
    """
    if not (folder / "metrics.json").is_file():
        return ""
    try:
        metrics = Metrics.model_validate_json(read_regular(folder / "metrics.json", MAX_BYTES))
    except OSError as error:
        raise DataError(
            f"cannot read it ({error.strerror})",
            file=folder / "metrics.json",
            fix="run ctmr evaluate again, or remove the file",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"not the metrics of ctmr evaluate ({'.'.join(map(str, first['loc']))}: {first['msg']})",
            file=folder / "metrics.json",
            fix="run ctmr evaluate again, or remove the file",
        ) from error
    about = f"n = {metrics.n}; {metrics.protocol}"
    parts = [_of_another_model(folder.parent, metrics)]
    parts += [_direction(name, metrics) for name in metrics.directions]
    parts.append(_lesions(metrics.lesions))
    shown = folder / "comparison.png"
    comparison = picture(shown, "source, result, truth and error") if shown.is_file() else ""
    return (
        f'<h2>Evaluation</h2><p class="soft">{escaped(about)}</p>{"".join(parts)}'
        f'<div class="comparison">{comparison}</div>'
    )


def _of_another_model(run: Path, metrics: Metrics) -> str:
    """A warning if what was evaluated is neither the run's newest model nor its best."""
    ours = set()
    for name in ("model", "best"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            said = json.loads(read_regular(run / name / "model.json", MAX_BYTES))
            ours.add(said["sha256"])
    if metrics.model is None or not ours or metrics.model.sha256 in ours:
        return ""
    return (
        '<p class="warning">Measured on another model than this run has now: evaluate it again.</p>'
    )


def _direction(direction: Direction, metrics: Metrics) -> str:
    """One direction: a row for each figure, a column for the model and for each other answer."""
    its, definitions = metrics.directions[direction], metrics.figures.get(direction, {})
    unit = its.unit or ""
    tables = {"this model": its.figures, **its.others, **its.baselines}
    body = "".join(
        _row(
            _figure_name(key, definitions.get(key), unit),
            [_summary(figures.get(key)) for figures in tables.values()],
            model=key == "mae",
        )
        for key in its.figures
    )
    note = "mean ± standard deviation [95 % interval of the mean]"
    gains = "".join(
        f"<p>MAE of the {escaped(answer)} less that of this model, patient by patient: "
        f"{_summary(gain)} {escaped(unit)}</p>"
        for answer, gain in its.difference.items()
    )
    return (
        f"<h3>{DIRECTION_NAMES[direction]} <span>{note}</span></h3>"
        f"{table(list(tables), body) if body else ''}{gains}{_no_reference(its, definitions)}"
    )


def _row(head: str, cells: Sequence[str], *, model: bool = False) -> str:
    shown = "</td><td>".join(cells)
    return f"<tr{' class=model' if model else ''}><th scope='row'>{head}</th><td>{shown}</td></tr>"


def _figure_name(key: str, definition: Definition | None, unit: str) -> str:
    """Name, unit, mask and range of a figure."""
    if definition is None:
        return escaped(key) + (f", {escaped(unit)}" if unit else "")
    its_unit = f", {escaped(definition.unit)}" if definition.unit else ""
    where = escaped(f"{definition.mask}; {definition.range}")
    return f"{escaped(definition.name)}{its_unit}<small>{where}</small>"


def _no_reference(its: DirectionMetrics, definitions: Mapping[str, Definition]) -> str:
    """What is known of one direction without the truth, and how well it ranks the true error."""
    body = "".join(
        _row(_figure_name(key, definitions.get(key), ""), [_summary(summary)])
        for key, summary in its.no_reference.items()
    )
    if (far := its.distances) is not None:
        what = "to real images, on features of a fixed random network; not FID"
        for name, value, real in (
            ("Frechet", far.frechet, far.frechet_real),
            ("kernel", far.kernel, far.kernel_real),
        ):
            shown = f"{value:.4g} <small>between real images {real:.4g}</small>"
            body += _row(f"{name} distance<small>{what}</small>", [shown])
    if not body:
        return ""
    known = [
        f"{escaped(name)} {found.spearman:.2f} [{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]"
        for name, found in its.uncertainty.items()
        if found is not None
    ]
    ranks = f"<p>Rank correlation with the MAE of a scan: {'; '.join(known)}</p>" if known else ""
    return f"<h4>Without the truth</h4>{table(['this model'], body)}{ranks}"


def _lesions(found: Lesions | None) -> str:
    """What becomes of lesions of synthetic heads."""
    if found is None:
        return ""
    heads, rows = lesion_rows(found)
    body = "".join(_row(escaped(row[0]), [escaped(cell) for cell in row[1:]]) for row in rows)
    about = f"{found.heads} synthetic heads with and without lesions. {found.what}"
    return f'<h3>Lesions</h3><p class="soft">{escaped(about)}</p>{table(heads[1:], body)}'


def _summary(summary: Summary | None) -> str:
    """Mean ± standard deviation [interval]."""
    if summary is None:
        return "-"
    low, high = summary.ci95
    return f"{summary.mean:.4g} ± {summary.sd:.3g} <small>[{low:.4g}, {high:.4g}]</small>"
