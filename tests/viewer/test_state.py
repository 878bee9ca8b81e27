"""Jobs kept for a day, models and runs as the page lists them, without a server."""

import asyncio
import hashlib
import json
from base64 import b64encode
from pathlib import Path

import pytest

from ctmr.errors import CheckpointError, UsageError
from ctmr.viewer.jobs import KEPT_S, MAX_JOBS, Jobs
from ctmr.viewer.models import models_of
from ctmr.viewer.report import policy_of
from ctmr.viewer.run_log import RunLog, summary_of
from ctmr.viewer.runs import Runs
from ctmr.viewer.server import listen


def test_job_is_deleted_after_a_day(tmp_path: Path) -> None:
    now = [0.0]

    async def day() -> None:
        jobs = Jobs(tmp_path, clock=lambda: now[0])
        first = jobs.add()
        assert first is not None
        now[0] = KEPT_S - 1
        second = jobs.add()
        await jobs.remove_old()
        assert jobs.all() == [second, first]
        now[0] = KEPT_S + 1
        await jobs.remove_old()
        assert jobs.all() == [second]
        assert not first.folder.exists()

    asyncio.run(day())


def test_sixty_fifth_job_is_not_taken(tmp_path: Path) -> None:
    async def many() -> None:
        jobs = Jobs(tmp_path)
        assert all(jobs.add() for _ in range(MAX_JOBS))
        assert jobs.add() is None

    asyncio.run(many())


def test_bundled_model_is_always_there_and_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    (model,) = models_of([], [])
    assert (model.name, model.directions) == ("head", ("ct-to-mr", "mr-to-ct"))
    assert "path" not in json.dumps(model.as_json())
    with pytest.raises(CheckpointError, match="found none"):
        models_of([tmp_path], [])
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match="found another file"):
        models_of([tmp_path], [])


def test_taken_port_is_refused() -> None:
    with listen(0) as first:
        first.listen()
        with pytest.raises(UsageError, match="cannot listen on port"):
            listen(first.getsockname()[1])


def run(folder: Path, rows: int, steps: int | None = 100) -> Path:
    folder.mkdir(parents=True)
    length = f"steps: {steps}" if steps else "steps: null\n  epochs: 10"
    (folder / "config.yaml").write_text(f"train:\n  {length}\n")
    (folder / "run.lock").write_text("pid 999999999 on host\n")
    lines = [
        {"step": n, "epoch": (n - 1) // 10, "loss_g": 1 / n, "seconds_per_step": 0.5}
        for n in range(1, rows + 1)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_state_of_a_run_follows_from_its_files(tmp_path: Path) -> None:
    half = run(tmp_path / "half", 40)
    assert summary_of(half)["state"] == "stopped"
    (half / "diverged_step_41.json").write_text("{}")
    assert summary_of(half)["state"] == "diverged"
    done = summary_of(run(tmp_path / "done", 100))
    assert (done["state"], done["step"], done["total"]) == ("done", 100, 100)
    epochs = summary_of(run(tmp_path / "epochs", 95, steps=None))
    assert epochs["total"] == 100
    assert sorted(path.name for path in Runs(tmp_path).folders()) == ["done", "epochs", "half"]


def test_run_that_is_locked_trains_and_is_told_so_without_its_lock(tmp_path: Path) -> None:
    import fcntl
    import os

    folder = run(tmp_path / "run", 40)
    (folder / "run.lock").write_text(f"pid {os.getpid()} on host\n")
    with (folder / "run.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = summary_of(folder)
    assert (found["state"], found["seconds_left"]) == ("training", 30)


def test_log_is_read_as_it_grows_and_anew_where_it_was_cut(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 10)
    log = RunLog(folder)
    rows, anew = log.read_new()
    assert ([row["step"] for row in rows], anew) == ([*range(1, 11)], True)
    assert log.read_new() == ([], False)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 11, "loss_g": NaN}\n{"step": 12')
    rows, anew = log.read_new()
    assert (rows, anew) == ([{"step": 11}], False)
    with (folder / "log.jsonl").open("a") as file:
        file.write("}\n")
    assert log.read_new() == ([{"step": 12}], False)
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    assert log.read_new() == ([{"step": 1}], True)


def test_long_log_is_thinned(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 60_000)
    rows, _ = RunLog(folder).read_new()
    steps = [row["step"] for row in rows]
    assert 1500 < len(rows) <= 2100
    assert steps == sorted(steps)
    assert steps[-1] > 59_900


def test_report_may_run_its_own_parts_only(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<style>a{}</style>" + "x" * 300_000 + "<script>run()</script>")
    policy = policy_of(page)
    for part in ("a{}", "run()"):
        assert b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "sandbox allow-scripts" in policy
