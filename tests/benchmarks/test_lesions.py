"""The table of benchmarks/lesions.py; the trainings behind it take too long for a test."""

import importlib.util
from pathlib import Path

import pytest

from ctmr.results import LesionDirection, LesionFigures, Lesions, LesionShares, Share
from ctmr.synthetic.lesions import LESIONS
from ctmr.types import DIRECTIONS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "lesions.py"


def table(survive: float) -> Lesions:
    """What `lesion_table` finds where that share survives."""
    none = Share(0.0, 60, (0.0, 0.06))
    shares = LesionShares(survives=none, invented=none)
    kind = LesionFigures(Share(survive, 60, (0.0, 1.0)), none, none, healthy=shares, truth=shares)
    direction = LesionDirection("HU", 40.0, dict.fromkeys(LESIONS, kind))
    return Lesions(60, 0, "t1", "", dict.fromkeys(DIRECTIONS, direction))


def test_both_models_stand_below_each_other_for_each_lesion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("lesions_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.print_side_by_side({"one": table(0.25), "other": table(0.75)})
    head, line, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| direction | lesion | trained on | survives |")
    assert {row.count("|") for row in (line, *rows)} == {head.count("|")}
    assert len(rows) == 2 * len(LESIONS) * 2
    assert rows[0].startswith("| ct-to-mr | bleed | one | 25 % [0, 100] of 60 |")
    assert rows[1].startswith("| ct-to-mr | bleed | other | 75 % [0, 100] of 60 |")
