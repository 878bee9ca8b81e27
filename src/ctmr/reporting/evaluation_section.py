"""The part of a run's page that shows `metrics.json`: errors, what is known without the truth, lesions."""

import json
from contextlib import suppress
from pathlib import Path

from markupsafe import Markup
from pydantic import ValidationError

from ctmr.errors import DataError
from ctmr.reporting.html import render
from ctmr.results import Lesions, Metrics, Share
from ctmr.system.files import read_regular

MAX_BYTES = 10_000_000  # of metrics.json


def evaluation_section(folder: Path) -> Markup:
    """Everything in the `metrics.json` of a folder, and its comparison; nothing where there is none.

    Raises:
        DataError: If `metrics.json` is damaged.
    """
    file, comparison = folder / "metrics.json", folder / "comparison.png"
    if not file.is_file():
        return Markup()
    fix = "run ctmr evaluate again, or remove the file"
    try:
        metrics = Metrics.model_validate_json(read_regular(file, MAX_BYTES))
        picture = comparison.read_bytes() if comparison.is_file() else None
    except OSError as error:
        raise DataError(f"cannot read it ({error.strerror})", file=file, fix=fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"not the metrics of ctmr evaluate ({place}: {first['msg']})", file=file, fix=fix
        ) from error
    heads, rows = lesion_rows(metrics.lesions) if metrics.lesions else ((), [])
    return render(
        "evaluation.html",
        {
            "metrics": metrics,
            "of_another_model": _of_another_model(folder.parent, metrics),
            "lesion_heads": heads,
            "lesion_rows": rows,
            "comparison": picture,
        },
    )


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
            _text(lesion.survives),
            _text(lesion.healthy.survives),
            _text(lesion.invented),
            _text(lesion.healthy.invented),
            _text(lesion.detectable),
            f"{_percent(lesion.truth.survives)}, {_percent(lesion.truth.invented)}",
        )
        for direction, figures in found.directions.items()
        for kind, lesion in figures.lesions.items()
    ]
    return head, rows


def _text(share: Share) -> str:
    if share.ci95 is None:
        return "n = 0"
    low, high = share.ci95
    return f"{_percent(share)} [{100 * low:.0f}, {100 * high:.0f}] of {share.n}"


def _percent(share: Share) -> str:
    return "-" if share.share is None else f"{100 * share.share:.0f} %"


def _of_another_model(run: Path, metrics: Metrics) -> bool:
    """True if what was evaluated is neither the run's newest model nor its best."""
    kept = set()
    for name in ("model", "best"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            kept.add(json.loads(read_regular(run / name / "model.json", MAX_BYTES))["sha256"])
    return bool(kept) and metrics.model is not None and metrics.model.sha256 not in kept
