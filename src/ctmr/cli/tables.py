"""The tables that the command line prints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctmr.cli.output import say
from ctmr.errors import printable

if TYPE_CHECKING:
    from ctmr.results import AuditReport, Correlation, Definition, Finding, Metrics, Summary


def say_correlations(correlations: "Mapping[Any, Correlation | None]") -> None:
    """Say how well the measures of uncertainty in the JSON beside an output rank true errors."""
    known = [
        f"{name} {found.spearman:.2f} [{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]"
        for name, found in correlations.items()
        if found is not None
    ]
    say(
        f"rank correlation with the true error on held-out pairs: {', '.join(known)}"
        if known
        else f"not measured for this model: how well {', '.join(correlations)} rank true errors"
    )


def some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def print_evaluation(metrics: "Metrics") -> None:
    """The tables of an evaluation: figures with truth, without it, and what becomes of lesions."""
    for direction, measured in metrics.directions.items():
        definitions = metrics.figures[direction]
        tables = {"model": measured.figures, **measured.others, **measured.baselines}
        head = f"{direction}, {metrics.patients} patients"
        if measured.figures:
            lines = [
                (
                    _named(key, definitions[key]),
                    *(_summary_text(t.get(key)) for t in tables.values()),
                )
                for key in measured.figures
            ]
            _print_table(f"{head}, mean [95 % interval]", ("", *tables), lines)
        for name, gain in measured.difference.items():
            say(f"MAE of {name} less the model's: {_summary_text(gain)} {measured.unit}")
        lines = [
            (_named(k, definitions[k]), _summary_text(v)) for k, v in measured.no_reference.items()
        ]
        if (far := measured.distances) is not None:
            lines += [
                (f"{name} distance to real images", f"{value:.3g} (real: {real:.3g})")
                for name, value, real in (
                    ("Frechet", far.frechet, far.frechet_real),
                    ("kernel", far.kernel, far.kernel_real),
                )
            ]
        _print_table(f"{head}, without the truth", ("", "model"), lines)
        if measured.figures:
            ranks = map(_correlation, measured.uncertainty.items())
            say("rank correlation with MAE: " + "; ".join(ranks))
    if metrics.lesions is not None:
        from ctmr.reporting.evaluation_section import lesion_rows

        title = f"synthetic lesions in {metrics.lesions.heads} heads (ctmr help lesions)"
        _print_table(title, *lesion_rows(metrics.lesions))
    say(metrics.notice)


def print_demo(metrics: "Metrics") -> None:
    """One table of a demo: the metrics that are asked for first, beside the baselines, in both directions."""
    lines, heads = [], [""]
    for direction, measured in metrics.directions.items():
        tables = {"model": measured.figures, **measured.baselines}
        heads = ["", *tables]
        for key in ("mae", "psnr", "ssim"):
            name = _named(key, metrics.figures[direction][key])
            cells = (_summary_text(figures.get(key)) for figures in tables.values())
            lines.append((f"{direction} {name}", *cells))
    _print_table(f"{metrics.patients} unseen heads, mean [95 % interval]", heads, lines)
    say(metrics.notice)


def print_audit(report: "AuditReport") -> None:
    """The table of an audit: a row for each kind and level of finding, with its first reason and file."""
    rows: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        rows.setdefault((finding.level, finding.kind), []).append(finding)
    lines = [
        (
            kind,
            level,
            printable(findings[0].files[0]),
            printable(findings[0].why),
            str(len(findings)),
            str(sum(len(each.files) for each in findings)),
        )
        for (level, kind), findings in rows.items()
    ]
    heads = ("finding", "level", "the first of them", "why", "findings", "files")
    _print_table(f"{sum(report.scans.values())} scans", heads, lines, left=4)


def _print_table(
    title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], *, left: int = 1
) -> None:
    """A table whose first columns are words, the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for n, name in enumerate(heads):
        table.add_column(name, justify="left" if n < left else "right", overflow="fold")
    for line in lines:
        table.add_row(*line)
    Console(width=max(120, Console().width)).print(table)


def _named(key: str, definition: "Definition") -> str:
    """The key of a figure with its unit; `metrics.json` has mask and range."""
    return f"{key}, {definition.unit}" if definition.unit else key


def _summary_text(summary: "Summary | None") -> str:
    if summary is None:
        return "-"
    low, high = summary.ci95
    return f"{summary.mean:.4g} [{low:.3g}, {high:.3g}]"


def _correlation(item: "tuple[str, Correlation | None]") -> str:
    name, correlation = item
    if correlation is None:
        return f"{name} not known"
    low, high = correlation.ci95
    return f"{name} {correlation.spearman:.2f} [{low:.2f}, {high:.2f}]"
