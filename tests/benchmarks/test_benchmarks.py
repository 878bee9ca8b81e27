"""Each benchmark runs and prints what it promises, on a small scale; no time is judged."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.usefixtures("quick_records")


@pytest.fixture
def run(monkeypatch, capsys):
    """A function `(script, *options)` that runs a script as it is called from a shell; its text, and the object on its last line."""

    def of(script, *options):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setattr("roofline.RUNS", 2)
        monkeypatch.setattr(sys, "argv", [script, *map(str, options), "--json"])
        importlib.import_module(script).main()
        *text, last = capsys.readouterr().out.strip().splitlines()
        return "\n".join(text), json.loads(last)

    return of


def test_training_steps_are_compared_in_turn(run):
    text, found = run("train_step", "--lines", "small", "--size", 32, "--rounds", 1, "--steps", 1)
    assert "| small, bfloat16 |" in text
    line = found["small, float32"]
    assert len(line["seconds"]) == 1
    assert line["printed"]["gflop"] > 0
    assert line["printed"]["convolutions"] > 0
    assert "over its convolutions" in text
    assert line["peak_mb"] > 50


def test_convolutions_are_timed_alone_as_often_as_they_are_done(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    roofline = importlib.import_module("roofline")
    seconds = iter(range(1, 100))  # of each convolution that is timed, one after the other
    monkeypatch.setattr(roofline, "timed", lambda work: float(next(seconds)))
    layer = torch.nn.Conv2d(2, 3, 3)
    image = torch.ones(1, 2, 8, 8)

    def work():
        layer(image).sum().backward()
        layer(image)

    # Twice forward by the first second, once backward by the second.
    assert roofline.convolution_seconds(work, rounds=1) == 2 * 1 + 1 * 2


def test_a_volume_is_translated_by_an_engine(run, tmp_path):
    options = ("--work", tmp_path, "--preset", "small", "--size", 48, "--slices", 4)
    text, found = run("translate_volume", *options, "--engines", "openvino", "--rounds", 1)
    # In bfloat16 too, where the processor multiplies it.
    lines = [name for name in found if name.startswith("small, openvino, ")]
    assert "small, openvino, float32" in lines
    assert all(f"| {name} |" in text and len(found[name]["seconds"]) == 1 for name in lines)
    assert (tmp_path / "out.nii.gz").is_file()


def test_the_loader_is_compared_with_what_training_needs(run):
    text, found = run("loader", "--images", 6, "--steps", 4, "--workers", "0")
    assert "| 0 |" in text
    assert found["samples_per_second"]["0"] > 1 / found["step_seconds"] > 0


def test_the_limit_of_the_machine_is_above_what_generators_reach(run):
    text, found = run("roofline", "--generators", "small", "--size", 64, "--rounds", 1)
    assert "convolutions in float32" in text
    assert {row["engine"] for row in found["rows"]} == {"torch", "openvino", "onnx"}
    for row in found["rows"]:
        assert row["gflops"] > 0
        assert row["share"] == pytest.approx(row["gflops"] / found["peaks"][row["precision"]])


def test_the_whole_program_is_measured_on_a_gpu_or_without(run):
    options = ("--preset", "small", "--minutes", 0.001, "--subjects", 1, "--size", 32)
    options += ("--set", "network.filters=4", "train.start=random")
    text, found = run("gpu", *options)
    assert f"device {found['machine']['device']} | precision" in text
    for part in ("train", "translate"):
        assert found["parts"][part]["images_per_second"] > 0
    assert found["parts"]["evaluate"]["seconds"] > 0
    assert set(found["mae"]) == {"ct-to-mr", "mr-to-ct"}


def test_nothing_that_simpleitk_reads_rightly_is_refused_without_an_option(run):
    text, found = run("series_readers")
    assert len(found) > 50
    assert "| tilted gantry | wrong | right |" in text
    assert {name for name, row in found.items() if row["ctmr"] != "right"} == set()
    needs = {name: row["with"] for name, row in found.items() if row["with"]}
    assert needs == {
        "a slice is missing": "--irregular",
        "two thicknesses": "--irregular",
        "no rescale": "--ct-values hu",
        "RescaleType US": "--ct-values hu",
    }
