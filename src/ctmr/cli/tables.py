"""The tables that the command line prints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ctmr.cli.output import say
from ctmr.errors import printable

if TYPE_CHECKING:
    from ctmr.models.quality import Correlation


def say_correlations(correlations: "Mapping[Any, Correlation | None]") -> None:
    """Say how well the measures of doubt in the JSON beside an output rank true errors."""
    known = [
        f"{name} {its.spearman:.2f} [{its.ci95[0]:.2f}, {its.ci95[1]:.2f}]"
        for name, its in correlations.items()
        if its is not None
    ]
    say(
        f"rank correlation with the true error on held-out pairs: {', '.join(known)}"
        if known
        else f"not measured for this model: how well {', '.join(correlations)} rank true errors"
    )


def some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def print_evaluation(summary: Mapping[str, Any]) -> None:
    """The tables of an evaluation: figures with truth, without it, and what becomes of lesions."""
    for direction, its in summary["directions"].items():
        specs = summary["figures"][direction]
        answers = {"model": its, **its["answers"], **its["naive"]}
        known = [key for key in specs if key in its]
        head = f"{direction}, {summary['patients']} patients"
        if known:
            lines = [
                (_named(key, specs[key]), *(_summary_text(a.get(key)) for a in answers.values()))
                for key in known
            ]
            _print_table(f"{head}, mean [95 % interval]", ("", *answers), lines)
        for name, gain in its["difference"].items():
            say(f"MAE of {name} less the model's: {_summary_text(gain)} {its['unit']}")
        blind = [(_named(k, specs[k]), _summary_text(v)) for k, v in its["without_truth"].items()]
        if its["distances"] is not None:
            far = its["distances"]
            blind += [
                (
                    f"{name} distance to real images",
                    f"{far[key]:.3g} (real: {far[f'{key}_real']:.3g})",
                )
                for key, name in (("frechet", "Frechet"), ("kernel", "kernel"))
            ]
        _print_table(f"{head}, without the truth", ("", "model"), blind)
        if known:
            say("rank correlation with MAE: " + "; ".join(map(_correlation, its["doubt"].items())))
    if summary.get("lesions"):
        from ctmr.reporting.evaluation_section import lesion_rows

        title = f"synthetic lesions in {summary['lesions']['heads']} heads (docs/lesions.md)"
        _print_table(title, *lesion_rows(summary["lesions"]))
    say(f"{summary['notice']}")


def print_audit(report: Mapping[str, Any]) -> None:
    """The table of an audit: a row for each kind and level of finding, with its first reason and file."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in report["findings"]:
        rows.setdefault((finding["level"], finding["kind"]), []).append(finding)
    lines = [
        (
            kind,
            level,
            printable(its[0]["files"][0]),
            printable(its[0]["why"]),
            str(len(its)),
            str(sum(len(each["files"]) for each in its)),
        )
        for (level, kind), its in rows.items()
    ]
    heads = ("finding", "level", "the first of them", "why", "findings", "files")
    _print_table(f"{sum(report['scans'].values())} scans", heads, lines, left=4)


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


def _named(key: str, spec: Mapping[str, Any]) -> str:
    """The key of a figure with its unit; `metrics.json` has mask and range."""
    return f"{key}, {spec['unit']}" if spec["unit"] else key


def _summary_text(its: Mapping[str, Any] | None) -> str:
    if its is None:
        return "-"
    low, high = its["ci95"]
    return f"{its['mean']:.4g} [{low:.3g}, {high:.3g}]"


def _correlation(item: tuple[str, Mapping[str, Any] | None]) -> str:
    name, its = item
    if its is None:
        return f"{name} not known"
    low, high = its["ci95"]
    return f"{name} {its['spearman']:.2f} [{low:.2f}, {high:.2f}]"
