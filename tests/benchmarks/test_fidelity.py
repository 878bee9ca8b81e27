"""The door of benchmarks/fidelity.py, and its folders; the comparison itself needs the reference implementation."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from ctmr.imaging.image import Image
from ctmr.io.image_info import write_image_info
from ctmr.io.images import read_image, write_image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fidelity.py"


def script():
    spec = importlib.util.spec_from_file_location("fidelity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data_without_pairs_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--reference", tmp_path, "--reference-python", tmp_path]
    command += ["--work", tmp_path, "--data", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--data and --pairs belong together" in done.stderr


def test_both_programs_are_given_the_same_8_bit_images_that_keep_their_hu(tmp_path: Path) -> None:
    hu = np.linspace(-1024, 3000, 64 * 64, dtype=np.float32).reshape(64, 64)
    name = "head_00.png"
    write_image(tmp_path / "ct" / name, Image(hu, "HU", 16, (1.0, 1.0)))
    write_image_info(tmp_path / "ct", "HU", files={name: (1.0, 1.0)})
    fidelity = script()
    fidelity.write_8_bit(tmp_path / "ct", tmp_path / "small" / "ct", 32)
    with Pillow.open(tmp_path / "small" / "ct" / name) as image:
        assert (image.mode, image.size) == ("L", (32, 32))
    kept = read_image(tmp_path / "small" / "ct" / name)
    assert kept.unit == "HU"
    assert kept.spacing_mm == (2.0, 2.0)  # half as many pixels
    middle = hu.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(kept.array - middle).max() <= 12  # half a level of 16 HU, and the filter
    assert json.loads((tmp_path / "small" / "ct" / "ctmr.json").read_text())["slope"] == 16


def test_epochs_of_the_reference_are_whole_and_near_the_steps(tmp_path: Path) -> None:
    for folder, count in (("trainA", 3), ("trainB", 4)):
        for n in range(count):
            image = Image(np.zeros((32, 32), np.float32), "grey", 8)
            write_image(tmp_path / "data" / folder / f"{n}.png", image)
    options = argparse.Namespace(work=tmp_path, steps=11)
    fidelity = script()
    assert fidelity.largest(options) == 4
    assert fidelity.epochs_of(options) == 3
