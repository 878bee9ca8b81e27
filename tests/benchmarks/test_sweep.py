"""One head in many forms, small and with a model of random weights: a line for each form."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.usefixtures("bundled")
def test_every_form_has_its_error_or_its_refusal(label_maps, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sweep

    monkeypatch.setattr(sweep, "SHAPE", (60, 64, 8))
    monkeypatch.setattr(sweep, "SPACING_MM", (2.0, 2.0, 10.0))
    out = tmp_path / "sweep.json"
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(label_maps), "--out", str(out)])
    sweep.main()
    found = json.loads(out.read_text())
    assert len(found) == 10
    for form in found.values():
        assert form.keys() in ({"mae_hu", "level", "reasons"}, {"refused"})
    assert '"T2"' in capsys.readouterr().out
