import csv
import io

import pytest

from ctmr.evaluation.statistics import (
    Row,
    by_patient,
    correlations,
    csv_text,
    difference,
    of_method,
    table,
)
from ctmr.results import Summary


def row(patient: str, method: str = "model", **figures: float) -> Row:
    return Row(f"{patient}-{len(figures)}", patient, "ct-to-mr", method, figures)


ROWS = [row("p", mae=10), row("p", mae=30), row("q", mae=40, psnr=20)]


def test_images_are_averaged_within_a_patient_before_patients_are() -> None:
    assert by_patient(ROWS, "mae") == {"p": 20, "q": 40}
    found = table(ROWS, ["mae", "psnr", "ssim"])
    assert found["mae"].mean == 30
    assert found["mae"].sd == pytest.approx(200**0.5)
    assert found["psnr"] == Summary(20, 0, (20, 20))
    assert list(found) == ["mae", "psnr"]  # no row has the third


def test_difference_is_of_patients_that_both_have() -> None:
    others = [row("p", "copy", mae=25), row("r", "copy", mae=99)]
    found = difference([*ROWS, *others], "copy", "mae")
    assert found.mean == 5
    assert [r.method for r in of_method([*ROWS, *others], "copy")] == ["copy", "copy"]


def test_measure_that_ranks_as_the_error_does_has_correlation_one() -> None:
    rows = [row(f"p{n}", mae=n * n, known=n, calm=-n, flat=1) for n in range(6)]
    found = correlations(rows, ["known", "calm", "flat", "unknown"], "mae")
    assert found["known"].spearman == pytest.approx(1)
    assert found["calm"].spearman == pytest.approx(-1)
    assert found["known"].n == 6
    assert found["flat"] is None
    assert found["unknown"] is None


def test_lines_of_the_table_leave_unknown_figures_empty() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(ROWS))))
    assert [line["mae"] for line in lines] == ["10", "30", "40"]
    assert [line["psnr"] for line in lines] == ["", "", "20"]
    assert list(lines[0]) == ["name", "patient", "direction", "method", "mae", "psnr"]
