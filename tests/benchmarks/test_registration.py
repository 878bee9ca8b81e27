"""The registration benchmark: its offsets are rigid and as large as asked, and SimpleITK finds one by the bound."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ctmr import synthesise_head
from ctmr.imaging.volume import Volume

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("registration")


def test_offsets_are_rigid_and_within_what_was_asked_for(script):
    centre = np.array([10.0, -20.0, 30.0])
    for number in range(50):
        offset = script.random_offset((0, number), centre, 15.0, 12.0)
        turn = Rotation.from_matrix(offset[:3, :3])
        assert np.allclose(turn.as_matrix(), offset[:3, :3])
        assert turn.magnitude() <= np.radians(12)
        assert (np.abs((offset @ [*centre, 1])[:3] - centre) <= 15).all()


def test_error_by_hand(script):
    shift = np.eye(4)
    shift[:3, 3] = 3, 0, 4
    points = np.random.default_rng(0).normal(size=(7, 3))
    assert script.error_mm(np.eye(4), shift, points) == pytest.approx(5.0)
    assert script.error_mm(shift, shift, points) == 0.0


def test_offset_of_the_same_scan_is_found(script):
    head = synthesise_head(0, shape=(56, 64, 24), spacing_mm=(3.6, 3.6, 6.0))
    ct = Volume(head.ct, head.affine, "ct")
    points = script.points_of(head)
    offset = script.random_offset((0, 1), points.mean(axis=0), 8.0, 6.0)
    moved = Volume(head.ct, offset @ head.affine, "ct")
    before = script.error_mm(np.eye(4), offset, points)
    after = script.error_mm(script.registered(ct, moved, script.mean_squares), offset, points)
    assert before > 3
    assert after < 0.3


def test_every_way_gets_a_line_of_the_table(script, monkeypatch, capsys, bundled, tmp_path):
    assert bundled.is_dir()  # a tiny model in the place of that of the package
    small = {"shape": (56, 64, 24), "spacing_mm": (3.6, 3.6, 6.0)}
    monkeypatch.setattr(script, "CT_GRID", small)
    monkeypatch.setattr(script, "MR_GRID", small)
    out = tmp_path / "rows.json"
    options = ["registration", "--heads", "1", "--offsets", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", options)
    script.main()
    text = capsys.readouterr().out
    for way in ("not registered", *script.WAYS):
        assert f"| {way} | " in text
    assert out.is_file()
