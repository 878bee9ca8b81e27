"""Scans in, translations out, over HTTP: what the command line writes for the same names, and what it refuses."""

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctmr.cli.app import app
from support.command import by_command, timeless
from support.view import Client, view


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("view")


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Client]:
    with view(temporary=place) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "to"), [("mr.nii.gz", "ct"), ("ct.nii.gz", "mr"), ("slice.png", "ct")]
)
def test_result_is_what_the_command_writes(
    served: Client, scans: Path, tmp_path: Path, name: str, to: str
) -> None:
    suffix = name.partition(".")[2]
    (tmp_path / "scan").mkdir()
    shutil.copy(scans / name, tmp_path / "scan" / f"0001.{suffix}")
    out = by_command(tmp_path, to)
    job = served.upload((scans / name).read_bytes())
    looked = served.look(job)
    assert looked["look"]["modality"] == ("mr" if to == "ct" else "ct")
    done = served.result(job, to)
    assert done["state"] == "done", done
    assert (
        served.ask("GET", f"/jobs/{job}/results/result").body
        == (out / f"0001.{suffix}").read_bytes()
    )
    assert (
        served.ask("GET", f"/jobs/{job}/results/preview").body
        == (out / "0001.preview.png").read_bytes()
    )
    sidecar = served.ask("GET", f"/jobs/{job}/results/sidecar").body
    assert timeless(sidecar) == timeless((out / "0001.json").read_bytes())
    assert served.ask("DELETE", f"/jobs/{job}").status == 204


def test_refusal_is_in_the_words_of_the_command_and_anyway_is_the_way_out(
    served: Client, scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "scan").mkdir()
    shutil.copy(scans / "ct.nii.gz", tmp_path / "scan" / "0001.nii.gz")
    (tmp_path / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        words = ["translate", "scan/0001.nii.gz", "out", "--to", "ct", "--json"]
        said = json.loads(CliRunner().invoke(app, words).stdout)
    job = served.upload((scans / "ct.nii.gz").read_bytes())
    served.look(job)
    refused = served.result(job, "ct")
    assert refused["state"] == "failed"
    assert refused["error"] == said
    assert served.ask("GET", f"/jobs/{job}").status == 422
    done = served.result(job, "ct", reading={"anyway": True})
    assert done["state"] == "done"
    assert done["view"]["sidecar"]["anyway"] is True


def test_what_is_no_scan_is_refused_by_its_bytes(served: Client) -> None:
    job = served.ask("POST", "/jobs", b"").json["id"]
    answer = served.ask("PUT", f"/jobs/{job}/files/{'a' * 32}", b"\x80\x04\x95pickle")
    assert (answer.status, answer.json["error"]["code"]) == (415, "E300")
    assert served.ask("POST", f"/jobs/{job}/look", b"").status == 409
    served.ask("DELETE", f"/jobs/{job}")


def test_damaged_scan_is_refused_with_what_is_wrong(served: Client, scans: Path) -> None:
    job = served.upload((scans / "mr.nii.gz").read_bytes()[:-400])
    looked = served.look(job)
    assert (looked["state"], looked["error"]["exit"]) == ("failed", 3)
    assert looked["error"]["file"] == "scan/0001.nii.gz"


def test_cancel_ends_the_child_within_two_seconds(served: Client, scans: Path) -> None:
    job = served.upload((scans / "mr.nii.gz").read_bytes())
    served.look(job)
    served.translate(job, "ct")
    started = time.monotonic()
    assert served.ask("POST", f"/jobs/{job}/cancel", b"").json["state"] == "cancelled"
    assert time.monotonic() - started < 2
    done = served.result(job, "ct")
    assert done["state"] == "done"


def test_child_that_dies_says_so(served: Client, scans: Path) -> None:
    job = served.upload((scans / "mr.nii.gz").read_bytes())
    served.look(job)
    served.translate(job, "ct")
    for child in children(served):
        os.kill(child, signal.SIGKILL)
    failed = served.wait(job, "failed", "done")
    assert (failed["state"], failed["error"]["exit"]) == ("failed", 7)
    assert "SIGKILL" in failed["error"]["what"]
    assert served.ask("GET", f"/jobs/{job}").status == 503


def children(client: Client) -> list[int]:
    text = Path(f"/proc/{client.process.pid}/task/{client.process.pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_uploads_at_once_stay_apart(served: Client, scans: Path) -> None:
    content, found = (scans / "slice.png").read_bytes(), list[str]()
    threads = [
        threading.Thread(target=lambda: found.append(served.upload(content))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    for job in found:
        assert re.fullmatch("[0-9a-f]{32}", job)
        served.ask("DELETE", f"/jobs/{job}")


def test_same_file_twice_is_a_conflict(served: Client, scans: Path) -> None:
    job = served.ask("POST", "/jobs", b"").json["id"]
    path = f"/jobs/{job}/files/{'b' * 32}"
    content = (scans / "slice.png").read_bytes()
    assert [served.ask("PUT", path, content).status for _ in range(2)] == [200, 409]
    served.ask("DELETE", f"/jobs/{job}")
    assert served.ask("GET", f"/jobs/{job}").status == 404


def test_files_are_their_owners_alone_and_gone_at_the_end(tmp_path: Path, scans: Path) -> None:
    with view(temporary=tmp_path) as client:
        client.upload((scans / "slice.png").read_bytes())
        (folder,) = tmp_path.glob("ctmr-view-*")
        for path in (folder, *folder.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
        started = time.monotonic()
        client.process.send_signal(signal.SIGINT)
        assert client.process.wait(10) == 0
        assert time.monotonic() - started < 5
    assert list(tmp_path.iterdir()) == []


def test_killed_server_takes_its_child_along_and_the_next_one_sweeps(
    tmp_path: Path, scans: Path
) -> None:
    with view(temporary=tmp_path) as client:
        job = client.upload((scans / "mr.nii.gz").read_bytes())
        client.look(job)
        client.translate(job, "ct")
        running = children(client)
        assert running
        client.process.kill()
        client.process.wait()
        (left,) = tmp_path.glob("ctmr-view-*")
        until = time.monotonic() + 5
        while any(alive(child) for child in running) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(alive(child) for child in running)
    with view(temporary=tmp_path) as client:
        assert not left.exists()
        assert client.ask("GET", "/jobs").json == {"jobs": []}


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
