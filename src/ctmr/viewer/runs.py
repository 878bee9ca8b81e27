"""The runs of a folder, read while they are trained: nothing is locked, written or kept from being written."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ctmr.system.ownership import RUN_CONFIG, RUN_LOCK
from ctmr.viewer.guard import refusal
from ctmr.viewer.report import policy_of
from ctmr.viewer.run_log import RunLog, summary_of

DEPTH = 2  # folders below that named, in which runs are looked for
MAX_RUNS = 200
MAX_WATCHERS = 16
EVERY_S = 1.0
_QUIET_S = 10.0  # after which a comment tells that the server is there


class Runs:
    """What the page is told of runs.

    Args:
        root: The folder with runs, a run itself, or None.

    Attributes:
        ended: Whether the server ends, so that streams do.
    """

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._ids: dict[Path, str] = {}
        self._watchers = 0
        self.ended: Callable[[], bool] = lambda: False

    def routes(self) -> list[Route]:
        """The routes of runs."""
        return [
            Route("/runs", self._list),
            Route("/runs/{run:id}/events", self._events),
            Route("/runs/{run:id}/grids/{step:int}.png", self._grid),
            Route("/runs/{run:id}/report", self._report),
        ]

    def folders(self) -> list[Path]:
        """Every run, the one that was written to last first."""
        if self._root is None:
            return []
        found: list[tuple[float, Path]] = []
        todo = [(self._root, 0)]
        while todo and len(found) < MAX_RUNS:
            folder, depth = todo.pop()
            try:
                if (folder / RUN_CONFIG).is_file() and (folder / RUN_LOCK).is_file():
                    found.append((_changed(folder), folder))
                elif depth <= DEPTH:
                    inside = sorted(path for path in folder.iterdir() if path.is_dir())
                    todo += [(path, depth + 1) for path in inside if not path.is_symlink()]
            except OSError:
                continue
        return [folder for _, folder in sorted(found, reverse=True)]

    def _id(self, folder: Path) -> str:
        return self._ids.setdefault(folder, secrets.token_hex(16))

    def _folder(self, request: Request) -> Path | None:
        wanted = request.path_params["run"]
        return next((path for path, name in self._ids.items() if name == wanted), None)

    def _all(self) -> list[dict[str, Any]]:
        return [{"id": self._id(path), **summary_of(path)} for path in self.folders()]

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"runs": await asyncio.to_thread(self._all)})

    async def _events(self, request: Request) -> Response:
        folder = self._folder(request)
        if folder is None:
            return refusal(404, "there is no such run")
        if self._watchers >= MAX_WATCHERS:
            return refusal(429, "too many runs are watched", "close some pages")
        return StreamingResponse(self._watch(folder), media_type="text/event-stream")

    async def _watch(self, folder: Path) -> AsyncIterator[str]:
        """Server-sent events: the rows of the log as they come, and the summary when it changes."""
        log, last, quiet = RunLog(folder), "", 0.0
        self._watchers += 1
        try:
            while not self.ended():
                rows, anew = await asyncio.to_thread(log.read_new)
                text = json.dumps(await asyncio.to_thread(summary_of, folder))
                quiet += EVERY_S
                if rows or anew:
                    yield _event("rows", json.dumps({"anew": anew, "rows": rows}))
                    quiet = 0
                if text != last:
                    yield _event("summary", text)
                    last, quiet = text, 0
                if quiet >= _QUIET_S:
                    yield ": here\n\n"
                    quiet = 0
                await asyncio.sleep(EVERY_S)
        finally:
            self._watchers -= 1

    async def _grid(self, request: Request) -> Response:
        folder, step = self._folder(request), request.path_params["step"]
        path = None if folder is None else folder / "samples" / f"step_{step:06}.png"
        if path is None or not path.is_file():
            return refusal(404, "there is no such picture")
        return FileResponse(path, media_type="image/png")

    async def _report(self, request: Request) -> Response:
        folder = self._folder(request)
        path = None if folder is None else folder / "report.html"
        if path is None or not path.is_file():
            return refusal(404, "there is no report yet", "wait until the training has written it")
        policy = await asyncio.to_thread(policy_of, path)
        headers = {"Content-Security-Policy": policy}
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _changed(folder: Path) -> float:
    log = folder / "log.jsonl"
    return (log if log.is_file() else folder / RUN_CONFIG).stat().st_mtime
