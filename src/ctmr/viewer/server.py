"""The server of the page: its routes, and its life from the first request to Ctrl-C."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ctmr.errors import UsageError
from ctmr.viewer.guard import MAX_HEADER_BYTES, Guard, Session, refusal, short_json
from ctmr.viewer.jobs import Job, Jobs
from ctmr.viewer.limits import IDLE_S
from ctmr.viewer.models import models_of
from ctmr.viewer.orders import order_of
from ctmr.viewer.pages import PAGES, page_routes
from ctmr.viewer.runs import Runs
from ctmr.viewer.uploads import receive

MAX_CONNECTIONS = 100
STATUS = {2: 422, 3: 422, 8: 422, 4: 507, 7: 503}  # by exit code
SWEEP_S = 600.0


class _Hex(Convertor[str]):
    regex = "[a-f0-9]{32}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Slice(_Hex):
    regex = (
        r"(?:source|translation|cycle_error|disagreement)-(?:axial|coronal|sagittal|image)-\d{4,5}"
    )


register_url_convertor("id", _Hex())
register_url_convertor("slice", _Slice())


class _Protocol(H11Protocol):
    """HTTP/1.1 whose headers must come soon and be short."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(IDLE_S, self._close_unused)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _close_unused(self) -> None:
        """Close a connection on which no request was complete, or that stopped in the middle of the next one."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and not self.transport.is_closing():
            self.transport.close()
        elif not self.transport.is_closing():
            self._deadline = self.loop.call_later(IDLE_S, self._close_unused)


class Server:
    """The state that the routes share.

    Args:
        folder: Of the server, for the jobs.
        port: It listens on.
        models: Named by the user.
        runs: Folder with runs, or None.
    """

    def __init__(self, folder: Path, port: int, models: Sequence[Path], runs: Path | None) -> None:
        self.session = Session(port)
        self.jobs: Jobs
        self.runs = Runs(runs)
        self._folder, self._port, self._named = folder, port, models
        models_of(models, ())  # an error now, not on the page

    def app(self) -> Guard:
        """The application with its guard."""
        routes = [
            *page_routes(),
            Route("/health", self._health),
            Route("/session", self.session.exchange, methods=["POST"]),
            Route("/models", self._models),
            Route("/jobs", self._list),
            Route("/jobs", self._add, methods=["POST"]),
            Route("/jobs/{job:id}", self._of(_show)),
            Route("/jobs/{job:id}", self._of(self._remove), methods=["DELETE"]),
            Route("/jobs/{job:id}/files/{file:id}", self._of(receive), methods=["PUT"]),
            Route("/jobs/{job:id}/look", self._of(self._look), methods=["POST"]),
            Route("/jobs/{job:id}/translate", self._of(self._translate), methods=["POST"]),
            Route("/jobs/{job:id}/cancel", self._of(self._cancel), methods=["POST"]),
            Route("/jobs/{job:id}/results/{name}", self._of(_result)),
            Route("/jobs/{job:id}/slices/{slice:slice}.png", self._of(_slice)),
            *self.runs.routes(),
        ]
        app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _refused, Exception: _broken},
            lifespan=self._lifespan,
        )
        app.router.redirect_slashes = False
        return Guard(app, self.session, self._port, PAGES)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.jobs = Jobs(self._folder)
        tasks = [asyncio.create_task(self.jobs.prepare()), asyncio.create_task(self._sweep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self.jobs.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.jobs.remove_old()

    def _of(self, answer: Callable[[Request, Job], Awaitable[Response]]) -> Any:
        """A route of one job."""

        async def route(request: Request) -> Response:
            try:
                job = self.jobs[request.path_params["job"]]
            except KeyError:
                return refusal(404, "there is no such scan", "drop it again")
            return await answer(request, job)

        return route

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"ok": True})

    async def _models(self, _: Request) -> Response:
        found = await asyncio.to_thread(models_of, self._named, self.runs.folders())
        return JSONResponse({"models": [model.as_json() for model in found]})

    async def _list(self, _: Request) -> Response:
        return JSONResponse({"jobs": [job.as_json() for job in self.jobs.all()]})

    async def _add(self, _: Request) -> Response:
        job = self.jobs.add()
        if job is None:
            return refusal(429, "too many scans are kept", "delete some of them")
        return JSONResponse(job.as_json(), 201)

    async def _remove(self, _: Request, job: Job) -> Response:
        await self.jobs.remove(job)
        return Response(status_code=204)

    async def _cancel(self, _: Request, job: Job) -> Response:
        await self.jobs.cancel(job)
        return JSONResponse(job.as_json())

    async def _look(self, _: Request, job: Job) -> Response:
        if job.state != "new" or not job.numbers:
            return refusal(409, "there is nothing new to look at", "drop a scan")
        self.jobs.look(job)
        return JSONResponse(job.as_json(), 202)

    async def _translate(self, request: Request, job: Job) -> Response:
        if job.state in ("new", "looking", "waiting", "running") or job.look is None:
            return refusal(409, "it is not ready to be translated", "wait, or drop it again")
        content = await short_json(request)
        models = await asyncio.to_thread(models_of, self._named, self.runs.folders())
        order = order_of(content, {model.sha256: model.model for model in models})
        if order is None:
            return refusal(422, "this order is not understood", "reload the page")
        if not self.jobs.translate(job, order):
            return refusal(429, "too many scans wait", "wait until one is done")
        return JSONResponse(job.as_json(), 202)


async def _show(_: Request, job: Job) -> Response:
    status = STATUS.get(job.error["exit"], 500) if job.error and job.state == "failed" else 200
    return JSONResponse(job.as_json(), status)


async def _result(request: Request, job: Job) -> Response:
    files = (job.view or {}).get("files", {})
    name = request.path_params["name"]
    if job.state != "done" or name not in files:
        return refusal(404, "there is no such result", "wait until it is done")
    path = job.folder / files[name]
    headers = {"Content-Disposition": "attachment"}  # the page names it as its user does
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


async def _slice(request: Request, job: Job) -> Response:
    path = job.folder / "view" / f"{request.path_params['slice']}.png"
    if job.state != "done" or not path.is_file():
        return refusal(404, "there is no such slice", "wait until it is done")
    return FileResponse(path, media_type="image/png")


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: "there is nothing here", 405: "this method is not known"}.get(status, "refused")
    return refusal(status, "too much was sent" if status == 413 else what)


async def _broken(_: Request, error: Exception) -> Response:
    if isinstance(error, TimeoutError):
        return refusal(408, f"nothing came for {IDLE_S:g} s")
    return refusal(500, f"unexpected {type(error).__name__}", code="E100")


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1, and nowhere else.

    Args:
        port: 0 takes a free one.

    Raises:
        UsageError: If the port is taken or may not be used.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        made.close()
        why = error.strerror if isinstance(error, OSError) else "no such port"
        raise UsageError(f"cannot listen on port {port} ({why})", fix="leave out --port") from error
    return made


class _Uvicorn(uvicorn.Server):
    """A server that ends at a signal and then goes on after `run`, where the caller tidies up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {name: signal.signal(getattr(signal, name), self.handle_exit) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)


def serve(server: Server, bound: socket.socket, started: Callable[[], None]) -> None:
    """Answer requests until a signal comes; `started` is called once the socket is listened to."""
    config = uvicorn.Config(
        server.app(),
        http=_Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    bound.listen(128)
    started()
    running = _Uvicorn(config)
    server.runs.ended = lambda: running.should_exit
    running.run(sockets=[bound])
