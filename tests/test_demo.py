import json

import pytest
from typer.testing import CliRunner

from ctmr import config as settings
from ctmr import demo, load_model
from ctmr.cli.app import app
from ctmr.errors import UsageError
from ctmr.evaluation import evaluate as evaluation
from ctmr.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_records")


@pytest.fixture
def quick(tiny_config):
    """A network that trains in milliseconds and draws its curves at the end only."""
    train = tiny_config.train.model_copy(update={"checkpoint_every": 1000})
    return tiny_config.model_copy(update={"train": train})


@pytest.fixture
def tiny_demo(quick, monkeypatch):
    """A demo of few small heads and of a quick network."""
    monkeypatch.setattr(demo, "SUBJECTS", 1)
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(evaluation, "HEADS", 4)
    monkeypatch.setitem(settings.PRESETS, "small", quick)


def test_demo_ends_with_a_model_its_errors_and_a_report(tiny_demo, tmp_path):
    out = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--out", str(out), "--minutes", "0.0001", "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert (printed["run"], printed["report"]) == (str(out), str(out / "report.html"))
    assert "mean image" in result.stdout  # the table
    lines = result.stdout.splitlines()[:-1]
    assert len(lines) <= 24  # one screen
    assert sum("mean [95 % interval]" in line for line in lines) == 1
    assert lines[-1] == f"report: {out / 'report.html'}"

    found = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert found == {key: printed[key] for key in found}
    assert (found["n"], found["patients"], found["unit"]) == (20, 2, "grey | HU")
    for figures in found["directions"].values():
        assert set(figures["baselines"]) == {"copy", "mean image", "monotone map"}
    assert "mae_bone" in found["directions"]["mr-to-ct"]

    report = (out / "report.html").read_text()
    assert "monotone map" in report
    assert "<h3>Lesions</h3>" in report
    assert found["lesions"]["heads"] == 4
    steps = RunFolder(out).read_config().train.steps
    assert steps == demo.TIMED_STEPS  # the fewest
    card = load_model(out).model.card
    assert card.provenance["steps"] == steps
    assert set(card.intensities["ct"]) == {"HU"}
    assert card.scale.pixel_mm is not None


def test_demo_does_not_write_over_a_run(tiny_run):
    with pytest.raises(UsageError, match="already holds a run"):
        demo.run_demo(tiny_run, minutes=1, seed=0, progress=lambda _: lambda *_: None)


def test_steps_fill_the_minutes_on_this_machine(quick, tiny_data):
    steps = demo.steps_in(0.5, quick, tiny_data)
    assert 30 / 0.5 < steps < 30 / 0.001  # a step takes 1 to 500 ms
