"""What real processes do to the world outside their outputs: no network, no other program, no write to an input."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from pictures import slices

CLI = [sys.executable, "-c", "from ctmr.cli import main; main()"]
TINY = [
    *("--preset", "small", "--set", "data.size=32", "--set", "network.filters=4", "--steps", "2"),
    *("--set", "network.blocks=1", "--set", "network.discriminator_filters=4"),
]


def works(command: list[str]) -> bool:
    return (
        bool(shutil.which(command[0]))
        and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTMR_CACHE", str(tmp_path / "cache"))
    for name, modality, seeds in (("trainA", "wide", (1, 2)), ("trainB", "mr", (3, 4))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for n, pixels in enumerate(its for seed in seeds for its in slices(seed, modality)):
            Pillow.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{n}.png")
    return tmp_path / "data"


def commands(data: Path) -> list[list[str]]:
    place = data.parent
    train = ["train", str(data), "--out", str(place / "run"), *TINY]
    to = ["--model", str(place / "run"), "--to", "mr", "--anyway"]
    return [
        train,
        [*train, "--resume"],
        ["audit", str(data), "--out", str(place / "audit.json")],
        ["translate", str(data / "trainA"), str(place / "translated"), *to],
        ["evaluate", str(place / "run"), str(data)],
        ["report", str(place / "run")],
    ]


@pytest.mark.skipif(not works(["unshare", "-n", "true"]), reason="needs unshare -n")
def test_everything_works_without_a_network(data):
    for words in commands(data):
        done = subprocess.run(["unshare", "-n", *CLI, *words], capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr  # 3: the audit's findings
        assert "unexpected" not in done.stderr


@pytest.mark.skipif(not works(["strace", "-qq", "true"]), reason="needs strace")
def test_inputs_are_opened_for_reading_only_and_no_other_program_runs(data, tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=openat,open,creat,truncate,unlink,unlinkat,rename,renameat,renameat2,execve"
    for words in commands(data)[:-1]:
        watched = ["strace", "-f", "-qq", "-s", "300", "-e", calls, "-o", str(trace)]
        done = subprocess.run([*watched, *CLI, *words], capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
        lines = trace.read_text(errors="replace").splitlines()
        touched = [line for line in lines if f'"{data}/' in line and "execve(" not in line]
        reading = {line for line in touched if re.search(r"open(at)?\(.*O_RDONLY", line)}
        assert [line for line in touched if line not in reading] == []
        if words[0] in ("train", "audit", "translate"):
            assert reading
        assert sum("execve(" in line for line in lines) == 1, words
