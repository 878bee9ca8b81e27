"""Preparing that is killed at random moments, and two that prepare the same."""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 20
SCRIPT = """
import sys
from pathlib import Path
import ctmr.data.planning
import ctmr.data.prepare
from ctmr.config import PRESETS

if __name__ == "__main__":
    ctmr.data.planning.SHARD_BYTES = 9000
    ctmr.data.prepare.MIN_FOR_PROCESSES = int(sys.argv[3])
    config = PRESETS["small"].data.model_copy(update={"size": 32})
    print("imported", flush=True)
    ctmr.data.prepare.prepare(Path(sys.argv[1]), config, Path(sys.argv[2]))
"""


@pytest.fixture
def start(tmp_path, tiny_data):
    """Start to prepare into a place; processes that are there already once it comes back have all imported."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def started(place: Path, least: int = 2**40) -> subprocess.Popen[bytes]:
        command = [sys.executable, tmp_path / "script.py", tiny_data, place, str(least)]
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout
        with process.stdout as said:
            said.readline()
        return process

    return started


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_preparing_killed_at_random_moments_ends_with_the_same_bytes(start, tmp_path):
    whole = start(tmp_path / "whole")
    begun = time.monotonic()
    assert whole.wait() == 0
    seconds = time.monotonic() - begun
    chance, kills = random.Random(0), 0  # the moments need not be the same in each run
    while kills < KILLS:
        place = tmp_path / f"store{kills}"
        while True:
            process = start(place, 0 if kills % 5 == 4 else 2**40)
            try:
                assert process.wait(chance.uniform(0, seconds)) == 0
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        assert contents(place) == contents(tmp_path / "whole")
        assert not list(tmp_path.glob(f".{place.name}.*"))


def test_two_that_prepare_the_same_do_not_disturb_each_other(start, tmp_path):
    assert start(tmp_path / "whole").wait() == 0
    several = [start(tmp_path / "store") for _ in range(3)]
    several[0].kill()
    assert [process.wait() for process in several[1:]] == [0, 0]
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert {"whole", "store", "script.py"} == set(os.listdir(tmp_path))
