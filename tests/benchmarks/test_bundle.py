"""The script that makes the bundled model, on a small head of shells and on the tiny volumes."""

import importlib
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ctmr import load_model, read_scan
from ctmr.cyclegan.networks import UNet, initialise
from ctmr.models.bundle import bundled_models
from ctmr.system.rng import torch_stream
from ctmr.types import DIRECTIONS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def write_map(path: Path) -> None:
    """A label map of shells: white and grey matter, bone, soft tissue, in the numbers of Billot et al. 2023."""
    radius = np.linalg.norm(np.indices((70, 70, 70)) - 34.5, axis=0)
    numbers = np.select([radius < 15, radius < 22, radius < 26, radius < 31], [2, 3, 515, 507], 0)
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(numbers.astype(np.int16), np.eye(4)), path)


def test_state_of_a_training_becomes_a_model_that_is_listed_and_translates(
    tmp_path, tiny_volumes, monkeypatch, capsys
):
    write_map(tmp_path / "maps" / "a.nii.gz")
    averages = {}
    for direction in DIRECTIONS:
        network = UNet(1, 4)
        initialise(network, "uniform", torch_stream(2, direction))
        averages[direction] = network.state_dict()
    state = tmp_path / "state.pt"
    torch.save({"averages": averages, "step": 7, "seconds": 3600.0}, state)
    (tmp_path / "more.json").write_text('{"command": "train"}')
    out = tmp_path / "bundled" / "head"
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("bundle")
    monkeypatch.setattr(script, "FILTERS", 4)
    words = [state, out, "--anatomies", tmp_path / "maps", "--real", tiny_volumes / "train"]
    words += ["--leave-out", "ct/2", "--pairs", "6", "--about", tmp_path / "more.json"]
    monkeypatch.setattr(sys, "argv", ["bundle.py", *map(str, words)])
    script.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr("ctmr.models.bundle.BUNDLED", out.parent)
    (listed,) = bundled_models()
    assert listed.sha256 == printed["sha256"]
    translator = load_model()
    card = translator.model.card
    about = card.provenance
    assert (about["steps"], about["hours"], about["command"]) == (7, 1.0, "train")
    scans = ["ct/1.nii.gz (ct)", "mr/1.nii.gz (mr)", "mr/2.nii.gz (mr)"]
    assert about["statistics"]["scans"] == scans
    assert about["statistics"]["rendered"] == {"ct": 6, "mr": 6}
    for usual in card.training.values():
        assert usual.ranges["mean"][0] < usual.ranges["mean"][1]
        assert usual.cycle_error > 0
    result = translator.translate(read_scan(tiny_volumes / "test/mr/3.nii.gz"), to="ct")
    assert (result.encoding, result.array.shape) == ("HU", (36, 42, 12))
