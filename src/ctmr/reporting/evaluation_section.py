"""The part of a report that shows `metrics.json`: tables of errors, of what is known without the truth, of lesions."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctmr.errors import DataError
from ctmr.reporting.html import escaped, picture, table
from ctmr.system.files import read_regular


def lesion_rows(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and the rows, as text, of a table of what `disease.lesion_table` found."""
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
            _text(its["survives"]),
            _text(its["healthy"]["survives"]),
            _text(its["invented"]),
            _text(its["healthy"]["invented"]),
            _text(its["detectable"]),
            f"{_percent(its['truth']['survives'])}, {_percent(its['truth']['invented'])}",
        )
        for direction, figures in found["directions"].items()
        for kind, its in figures["lesions"].items()
    ]
    return head, rows


def _text(share: Mapping[str, Any]) -> str:
    if not share["n"]:
        return "n = 0"
    low, high = share["ci95"]
    return f"{_percent(share)} [{100 * low:.0f}, {100 * high:.0f}] of {share['n']}"


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['share']:.0f} %" if share["n"] else "-"


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
        metrics = json.loads(read_regular(folder / "metrics.json", MAX_BYTES))
        parts = [
            _direction(
                name, its, str(metrics.get("unit", "")), metrics.get("figures", {}).get(name, {})
            )
            for name, its in metrics["directions"].items()
        ]
        parts.append(_lesions(metrics.get("lesions")))
    except OSError as error:
        raise DataError(
            f"cannot read it ({error.strerror})",
            file=folder / "metrics.json",
            fix="run ctmr evaluate again, or remove the file",
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"not the metrics of ctmr evaluate ({type(error).__name__}: {error})",
            file=folder / "metrics.json",
            fix="run ctmr evaluate again, or remove the file",
        ) from error
    about = [f"n = {metrics['n']}"] if "n" in metrics else []
    about += [str(metrics["protocol"])] if "protocol" in metrics else []
    parts.insert(0, _of_another_model(folder.parent, metrics))
    shown = folder / "comparison.png"
    comparison = picture(shown, "source, result, truth and error") if shown.is_file() else ""
    return (
        f'<h2>Evaluation</h2><p class="soft">{escaped("; ".join(about))}</p>{"".join(parts)}'
        f'<div class="comparison">{comparison}</div>'
    )


def _of_another_model(run: Path, metrics: Mapping[str, Any]) -> str:
    """A warning if what was evaluated is neither the run's newest model nor its best."""
    model = metrics.get("model")
    evaluated = model.get("sha256") if isinstance(model, dict) else None
    ours = set()
    for name in ("model", "best"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            said = json.loads(read_regular(run / name / "model.json", MAX_BYTES))
            ours.add(said["sha256"])
    if evaluated is None or not ours or evaluated in ours:
        return ""
    return (
        '<p class="warning">Measured on another model than this run has now: evaluate it again.</p>'
    )


def _direction(name: str, its: Mapping[str, Any], unit: str, specs: Mapping[str, Any]) -> str:
    """One direction: a row for each figure, a column for the model and for each other answer."""
    unit = str(its.get("unit", unit))
    answers = {"this model": its, **its.get("answers", {}), **its.get("naive", {})}
    body = "".join(
        _row(
            _figure_name(key, specs.get(key, {}), unit),
            [_summary(_summaries(values).get(key)) for values in answers.values()],
            model=key == "mae",
        )
        for key in _summaries(its)
    )
    note = "mean ± standard deviation [95 % interval of the mean]"
    gains = "".join(
        f"<p>MAE of the {escaped(answer)} less that of this model, patient by patient: "
        f"{_summary(gain)} {escaped(unit)}</p>"
        for answer, gain in its.get("difference", {}).items()
    )
    return (
        f"<h3>{escaped(DIRECTION_NAMES.get(name, name))} <span>{note}</span></h3>"
        f"{table(list(answers), body) if body else ''}{gains}{_blind(its, specs)}"
    )


def _row(head: str, cells: Sequence[str], *, model: bool = False) -> str:
    shown = "</td><td>".join(cells)
    return f"<tr{' class=model' if model else ''}><th scope='row'>{head}</th><td>{shown}</td></tr>"


def _figure_name(key: str, spec: Mapping[str, Any], unit: str) -> str:
    """Name, unit, mask and range of a figure."""
    its_unit = str(spec.get("unit", unit))
    name = escaped(spec.get("name", key)) + (f", {escaped(its_unit)}" if its_unit else "")
    where = "; ".join(str(spec[part]) for part in ("mask", "range") if spec.get(part))
    return name + (f"<small>{escaped(where)}</small>" if where else "")


def _blind(its: Mapping[str, Any], specs: Mapping[str, Any]) -> str:
    """What is known of one direction without the truth, and how well it ranks the true error."""
    body = "".join(
        _row(_figure_name(key, specs.get(key, {}), ""), [_summary(summary)])
        for key, summary in its.get("without_truth", {}).items()
    )
    far = its.get("distances") or {}
    for key, name in (("frechet", "Frechet distance"), ("kernel", "kernel distance")):
        if key in far:
            what = "to real images, on features of a fixed random network; not FID"
            value = f"{far[key]:.4g} <small>between real images {far[f'{key}_real']:.4g}</small>"
            body += _row(f"{name}<small>{what}</small>", [value])
    if not body:
        return ""
    known = [
        f"{escaped(name)} {found['spearman']:.2f} [{found['ci95'][0]:.2f}, {found['ci95'][1]:.2f}]"
        for name, found in its.get("doubt", {}).items()
        if found
    ]
    ranks = f"<p>Rank correlation with the MAE of a scan: {'; '.join(known)}</p>" if known else ""
    return f"<h4>Without the truth</h4>{table(['this model'], body)}{ranks}"


def _lesions(found: Mapping[str, Any] | None) -> str:
    """What becomes of lesions of synthetic heads."""
    if not found:
        return ""
    heads, rows = lesion_rows(found)
    body = "".join(_row(escaped(row[0]), [escaped(cell) for cell in row[1:]]) for row in rows)
    about = f"{found['heads']} synthetic heads with and without lesions. {found['what']}"
    return f'<h3>Lesions</h3><p class="soft">{escaped(about)}</p>{table(heads[1:], body)}'


def _summaries(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {k: v for k, v in values.items() if isinstance(v, dict) and "mean" in v}


def _summary(summary: Mapping[str, Any] | None) -> str:
    """Mean ± standard deviation [interval], as far as they are there."""
    if summary is None:
        return "-"
    shown = f"{summary['mean']:.4g}"
    if "sd" in summary:
        shown += f" ± {summary['sd']:.3g}"
    if "ci95" in summary:
        low, high = summary["ci95"]
        shown += f" <small>[{low:.4g}, {high:.4g}]</small>"
    return shown
