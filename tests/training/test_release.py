"""A run of ctmr 0.1.0, kept as it was written, goes on and translates.

It was trained for 2 of 4 steps by the commit of that release on two synthetic slices of each modality.
"""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctmr import load_model, read_scan, train
from ctmr.models.folder import read_model
from ctmr.training.run_folder import RunFolder

KEPT = Path(__file__).parents[1] / "data" / "run-0.1.0"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(KEPT, tmp_path / "kept"))


def test_model_of_0_1_0_translates_both_ways(place):
    translator = load_model(place / "run")
    assert translator.model.card.mirror is False
    assert set(translator.model.discriminators) == {"ct", "mr"}
    for modality, to in (("ct", "mr"), ("mr", "ct")):
        scan = read_scan(next((place / "data/test" / modality).glob("*.png")))
        result = translator.translate(scan, to=to)
        assert result.array.shape == scan.array.shape
        assert result.spacing_mm == scan.spacing_mm
        assert (result.unit, np.isfinite(result.array).all()) == (
            "HU" if to == "ct" else "grey",
            True,
        )


@pytest.mark.usefixtures("quick_records")
def test_run_of_0_1_0_goes_on_where_it_was(place, caplog):
    config = RunFolder(place / "run").read_config()
    before = read_model(place / "run")
    with caplog.at_level(logging.WARNING):
        done = train(config, place / "data", place / "run", resume=True)
    assert (done.resumed_from, done.steps) == (2, 4)
    assert {path.name[:14] for path in (place / "run/checkpoints").iterdir()} == {
        "step_000000002",
        "step_000000004",
    }
    after = read_model(place / "run")
    assert after.card.provenance["steps"] == 4
    assert after.card.provenance["data"] == before.card.provenance["data"]
    for direction, generator in after.generators.items():
        old = before.generators[direction].state_dict()
        assert any((value != old[key]).any() for key, value in generator.state_dict().items())
    assert [r.getMessage() for r in caplog.records if "exactness" not in r.getMessage()] == []
