"""Results do not depend on locale, time zone or hash seed (R21), and a killed translation is run again (R28)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from ctmr.config import config_yaml
from ctmr.system.files import read_log
from ctmr.training.checkpoint import checkpoints

CLI = "from ctmr.cli import main; main()"
PLACES = {
    "plain": {"LANG": "C", "LC_ALL": "C", "PYTHONHASHSEED": "0", "TZ": "UTC"},
    "turkish": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "1"},
    "german": {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "77"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kolkata"},
}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but durations, which differ."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".json"
    }


@pytest.fixture(scope="module")
def results(tiny_config, tiny_data, tmp_path_factory):
    """What a training and a translation give in each of the places."""
    top = tmp_path_factory.mktemp("places")
    file = top / "config.yaml"
    file.write_text(config_yaml(tiny_config))
    found = {}
    for name, env in PLACES.items():
        run, out = top / name / "run", top / name / "out"
        each = {**os.environ, **env, "CTMR_CACHE": str(top / name / "cache")}
        for command in (
            ["train", tiny_data, "--out", run, "--config", file],
            ["translate", tiny_data / "testA", out, "--to", "mr", "--model", run, "--anyway"],
        ):
            done = subprocess.run(
                [sys.executable, "-c", CLI, *map(str, command)],
                capture_output=True,
                env=each,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds_per_step", "data_wait")}
            for row in read_log(run / "log.jsonl")
        ]
        evaluations = (run / "evaluations.jsonl").read_bytes()
        found[name] = (
            checkpoints(run / "checkpoints")[0].read_bytes(),
            evaluations,
            rows,
            tree(out),
        )
    return found


@pytest.mark.parametrize("name", list(PLACES)[1:])
def test_results_do_not_depend_on_locale_zone_or_hash_seed(results, name):
    assert results[name] == results["plain"]


def test_translation_that_is_killed_leaves_whole_files_and_ends_as_one_when_run_again(
    tiny_run, tiny_data, tmp_path, cli
):
    source = tmp_path / "source"
    source.mkdir()
    for n in range(60):
        name = f"ct_{n % 10:02d}.png"
        (source / f"{n:02d}.png").write_bytes((tiny_data / "trainA" / name).read_bytes())

    def command(out):
        return ["translate", source, out, "--to", "mr", "--model", tiny_run, "--anyway"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli(*command(whole)).returncode == 0
    with subprocess.Popen([sys.executable, "-c", CLI, *map(str, command(killed))]) as process:
        deadline = time.monotonic() + 60
        while len(list(killed.glob("??.png"))) < 20:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    written = list(killed.glob("??.png"))
    assert 20 <= len(written) < 60
    for path in written:
        with Pillow.open(path) as image:
            image.load()
        assert path.read_bytes() == (whole / path.name).read_bytes()
    sidecars = [json.loads(path.read_text()) for path in killed.glob("[0-9]*.json")]
    complete = sum("request_sha256" in printed for printed in sidecars)
    again = cli(*command(killed), "--resume", "--json")
    assert again.returncode == 0
    printed = json.loads(again.stdout.splitlines()[-1])
    assert (printed["written"], printed["kept"]) == (60 - complete, complete)
    assert complete >= 18
    left = {k: v for k, v in tree(killed).items() if not Path(k).name.startswith(".")}
    assert left == tree(whole)


# What is at work, at the thousandth and at the last of many images: resident memory and open files.
MANY = """
import json, os, sys
from pathlib import Path
from ctmr import load_model
from ctmr.translation.batch import translate_files
from ctmr.data.prepare import prepare

def used():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir("/proc/self/fd"))

found = {"prepare": [], "translate": []}
def at(name):
    thousands = 0
    def progress(done, total):
        nonlocal thousands
        if done // 1000 > thousands:
            thousands = done // 1000
            found[name].append(used())
    return progress

model, images, data, out = map(Path, sys.argv[1:])
translator = load_model(model, engine="torch")
prepare(data, translator.model.card.data, out / "store", at("prepare"))
translate_files(translator, images, out / "translated", "mr", progress=at("translate"))
print(json.dumps(found))
"""


def test_memory_and_open_files_do_not_grow_with_the_number_of_images(tiny_run, tiny_data, tmp_path):
    for folder in ("trainA", "trainB"):
        source = sorted((tiny_data / folder).iterdir())
        (tmp_path / "data" / folder).mkdir(parents=True)
        for n in range(2000 if folder == "trainA" else 10):
            os.link(source[n % len(source)], tmp_path / "data" / folder / f"{n:04}.png")
    command = (tiny_run, tmp_path / "data" / "trainA", tmp_path / "data", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", MANY, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for name, used in json.loads(done.stdout).items():
        (first, files), (last, files_last) = used[0], used[-1]
        assert len(used) >= 2, name
        assert files_last <= files + 2, name  # each of two threads may hold one at that moment
        assert last - first < len(used) - 1, f"{name}: {used}"  # MB: below 1 for 1000 images


# The peak memory of a translation whose network only copies: what is left is all that grows with the slices.
HEAD = """
import ctmr.models.engines as engines
from ctmr.cli import main
from ctmr.system.memory import peak_bytes
engines.session_of = lambda _: lambda images: images.copy()
try:
    main()
finally:
    print(peak_bytes())
"""


def test_memory_of_a_translation_grows_by_less_than_0_2_mb_a_slice(tmp_path):
    """Slices of 256x256 in int16: as they are in the file they take 0.131 MB."""
    sides = np.meshgrid(*[np.linspace(-1, 1, 256)] * 2, [0.0], indexing="ij")
    radius = np.hypot(sides[0] / 0.7, sides[1] / 0.85)
    slices = np.select([radius < 0.9, radius < 1], [40, 900], -1000).astype(np.int16)
    peaks = {}
    for count in (60, 300):
        path = tmp_path / f"{count}.nii"
        affine = np.diag([0.9, 0.9, 180 / count, 1])
        nib.save(nib.Nifti1Image(np.repeat(slices, count, axis=2), affine), path)
        command = ("translate", path, tmp_path / f"{count}-mr.nii.gz", "--to", "mr", "--anyway")
        done = subprocess.run(
            [sys.executable, "-c", HEAD, *map(str, command), "--engine", "onnx"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        peaks[count] = int(done.stdout.splitlines()[-1]) / 1e6
    assert (peaks[300] - peaks[60]) / 240 < 0.2, peaks
