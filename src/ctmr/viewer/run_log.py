"""What a run says of itself in its files, read a little at a time, without numpy and without its lock."""

import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctmr.errors import UsageError
from ctmr.system.ownership import RUN_CONFIG, RUN_LOCK
from ctmr.system.yaml import read_yaml

POINTS = 2000  # of a curve that is sent at once
MAX_READ_BYTES = 2**22  # of a log that is read whole
TAIL_BYTES = 2**16
_GRID = re.compile(r"step_(\d{6,9})\.png")
_DIVERGED = re.compile(r"diverged_step_(\d+)\.json")
_PID = re.compile(rb"pid (\d+) on ")


class RunLog:
    """The rows of a `log.jsonl` as they are added."""

    def __init__(self, run: Path) -> None:
        self._path, self._at = run / "log.jsonl", 0

    def read_new(self) -> tuple[list[dict[str, float]], bool]:
        """The rows that are new, and whether all that came before them is void: a run that resumes cuts its log."""
        try:
            size = self._path.stat().st_size
        except OSError:
            return [], False
        anew = size < self._at or self._at == 0
        start = 0 if anew else self._at
        if size == start:
            return [], False
        if size - start > MAX_READ_BYTES:
            rows = _thinned(self._path, start, size)
            self._at = size
            return rows, anew
        with self._path.open("rb") as file:
            file.seek(start)
            content = file.read(size - start)
        whole = content.rfind(b"\n") + 1
        self._at = start + whole
        rows = list(_rows(content[:whole].splitlines()))
        step = max(1, len(rows) // POINTS)
        return rows[::-1][::step][::-1], anew


def _thinned(path: Path, start: int, size: int) -> list[dict[str, float]]:
    """Some rows of a long log, evenly spaced, and the last ones."""
    lines: list[bytes] = []
    with path.open("rb") as file:
        for n in range(POINTS):
            file.seek(start + (size - start) * n // POINTS)
            file.readline(TAIL_BYTES)  # the rest of a line
            lines.append(file.readline(TAIL_BYTES))
    return list(_rows(lines))


def _rows(lines: Iterable[bytes]) -> Iterable[dict[str, float]]:
    """The numbers of each line that is whole."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            yield {key: value for key, value in row.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    finite = isinstance(value, int | float) and value - value == 0
    return finite and not isinstance(value, bool)


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last lines of a file of JSON lines."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines[-200:]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
    return rows


def summary_of(run: Path) -> dict[str, Any]:
    """What the list of runs says of one: name, state, step, time left, last evaluation, newest grid."""
    rows = _tail(run / "log.jsonl")
    step = rows[-1]["step"] if rows else 0
    total = _total(run, rows)
    paces = [row["seconds_per_step"] for row in rows if _is_number(row.get("seconds_per_step"))]
    trains = _is_held(run / RUN_LOCK)
    left = (total - step) * statistics.median(paces) if total and paces and trains else None
    evaluations = _tail(run / "evaluations.jsonl")
    return {
        "name": run.name,
        "state": _state(run, trains, step, total),
        "step": step,
        "total": total,
        "epoch": rows[-1].get("epoch") if rows else None,
        "seconds_left": None if left is None else round(max(left, 0)),
        "evaluation": _figures(evaluations[-1]) if evaluations else None,
        "grid": max(_numbers(run / "samples", _GRID), default=None),
        "report": (run / "report.html").is_file(),
    }


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    """Step, score and a few figures of an evaluation."""
    kept = ("mae", "ssim", "kernel", "structure_kept", "cycle_error")
    directions = {
        name: {key: figures[key] for key in kept if _is_number(figures.get(key))}
        for name, figures in line.items()
        if name in ("ct-to-mr", "mr-to-ct") and isinstance(figures, dict)
    }
    known = {key: line.get(key) for key in ("step", "by", "score")}
    return {**known, "directions": directions}


def _state(run: Path, trains: bool, step: int, total: int | None) -> str:
    if trains:
        return "training"
    if any(number >= step for number in _numbers(run, _DIVERGED)):
        return "diverged"
    return "done" if total is not None and step >= total else "stopped"


def _numbers(folder: Path, pattern: re.Pattern[str]) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return []
    return [int(match[1]) for name in names if (match := pattern.fullmatch(name))]


def _total(run: Path, rows: list[dict[str, Any]]) -> int | None:
    """Steps of the whole schedule; where it is in epochs, as long as the last whole one was."""
    try:
        train = read_yaml(run / RUN_CONFIG).get("train")
    except UsageError:
        return None
    if not isinstance(train, dict):
        return None
    if isinstance(train.get("steps"), int):
        return int(train["steps"])
    starts = {
        row["epoch"]: row["step"] for row in reversed(rows) if isinstance(row.get("epoch"), int)
    }
    lasts = train.get("epochs")
    epochs = sorted(starts)[1:]  # the first of them may have begun before these rows
    if not epochs or not isinstance(lasts, int):
        return None
    return int((starts[epochs[-1]] - 1) / epochs[-1] * lasts + 0.5)


def _is_held(lock: Path) -> bool:
    """Whether a process holds the lock of a run, told without touching it."""
    try:
        status, content = lock.stat(), lock.read_bytes()[:1000]
    except OSError:
        return False
    match = _PID.match(content)
    if match is None:
        return False
    try:
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return _runs(int(match[1]))
    inodes = [line.split()[5].split(":")[-1] for line in held.splitlines() if " FLOCK " in line]
    return str(status.st_ino) in inodes


def _runs(pid: int) -> bool:
    """Whether there is such a process, where the system does not list its locks."""
    import psutil

    return psutil.pid_exists(pid)
