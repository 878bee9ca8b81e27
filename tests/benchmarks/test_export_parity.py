import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import export_parity

    monkeypatch.setattr(export_parity, "SIZES", [(65, 71)])
    yield export_parity
    del sys.modules["export_parity"]


def test_networks_of_a_run_get_a_row_for_each_direction(script, tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export_parity.py", str(tiny_run), "--engines", "onnx"])
    script.main()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(", ")[1].split(" |")[0] for row in rows] == ["ct-to-mr", "mr-to-ct"]
    for row in rows:
        torch, onnx, share = (float(cell) for cell in row.strip("| ").split(" | ")[1:])
        assert 0 < torch < 1e-4
        assert 0 < onnx < 1e-4
        assert share == pytest.approx(onnx / (torch + 1e-6 / 1.5), rel=0.1)
