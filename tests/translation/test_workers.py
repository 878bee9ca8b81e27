"""A folder translated by several processes, or in shares, is what one process makes of it."""

import json
import os
import signal
from functools import partial

import pytest

from ctmr.cli.translate import _share
from ctmr.errors import DataError, ResourceError, UsageError
from ctmr.translation.batch import translate_files
from ctmr.translation.translator import load_model
from ctmr.translation.workers import Translators


@pytest.fixture(scope="module")
def load(tiny_run):
    return partial(load_model, tiny_run, engine="torch", precision="float32")


@pytest.fixture(scope="module")
def scans(tiny_data):
    return tiny_data / "trainB"


def tree(folder):
    """The files below a folder; of sidecars all but the duration and the seal that covers it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".json" and b"seconds" in content:
                sidecar = json.loads(content)
                content = {k: v for k, v in sidecar.items() if k not in ("seconds", "seal")}
            found[path.relative_to(folder).as_posix()] = content
    return found


@pytest.fixture(scope="module")
def by_one(load, scans, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    translate_files(load(), scans, out, "ct")
    return tree(out)


@pytest.fixture
def workers(load):
    with Translators(2, "cpu", load) as started:
        yield started


def test_two_processes_write_what_one_writes(load, scans, by_one, workers, tmp_path):
    seen = []
    summary = translate_files(
        load(), scans, tmp_path / "out", "ct", workers=workers, progress=lambda *n: seen.append(n)
    )
    assert summary.written == 8
    assert seen == [(n, 8) for n in range(1, 9)]
    assert tree(tmp_path / "out") == by_one


def test_shares_together_are_the_whole(load, scans, by_one, tmp_path):
    written = [
        translate_files(load(), scans, tmp_path / "out", "ct", part=(n, 3), resume=True).written
        for n in (2, 1, 3)
    ]
    assert sorted(written) == [2, 3, 3]
    assert tree(tmp_path / "out") == by_one


def test_bad_scan_stops_all_before_any_work_or_is_skipped(load, scans, workers, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for path in scans.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    bad = sorted(data.iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(DataError, match=bad.name):
        translate_files(load(), data, out, "ct", workers=workers)
    assert not list(out.glob("*.png"))
    summary = translate_files(load(), data, out, "ct", workers=workers, on_error="skip")
    assert (summary.written, summary.skipped) == (7, (bad.name,))


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_process_that_is_killed_is_told(workers):
    with pytest.raises(ResourceError, match="was killed"):
        list(workers.each(killed, [()]))


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "a/b", "1/0", "-1/2"])
def test_share_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="I/N"):
        _share(text)
    assert _share(None) == (1, 1)
