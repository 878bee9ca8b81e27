"""The jobs of a server: their folders and states, the one that runs, those that wait, and how long results are kept."""

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ctmr.viewer.worker import Worker

State = Literal["new", "looking", "looked", "waiting", "running", "done", "failed", "cancelled"]
MAX_JOBS = 64
MAX_WAITING = 8
KEPT_S = 24 * 3600.0
LOOK_S, RUN_S = 300.0, 3600.0
MAX_VIEW_BYTES = 2**22


@dataclass(eq=False)
class Job:
    """A scan that was uploaded, and what became of it.

    Attributes:
        id: 128 random bits in hexadecimal.
        folder: Its own.
        born: When, in seconds of a clock that only goes forward.
        files: Opaque id of each upload -> bytes.
    """

    id: str
    folder: Path
    born: float
    state: State = "new"
    files: dict[str, int] = field(default_factory=dict)
    numbers: int = 0
    look: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    view: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    worker: Worker | None = None
    task: asyncio.Task[None] | None = None

    def as_json(self) -> dict[str, Any]:
        """What the page is told."""
        shown = ("id", "state", "look", "progress", "view", "error", "notes")
        return {name: value for name, value in vars(self).items() if name in shown}


class Jobs:
    """All jobs of a server; one runs at a time, with a child that is ready before it is asked for.

    Args:
        folder: Of the server, in which each job gets one.
        clock: Seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._jobs: dict[str, Job] = {}
        self._turn, self._view = asyncio.Lock(), asyncio.Lock()
        self._spare: Worker | None = None
        self._tasks = set[asyncio.Task[None]]()

    def __getitem__(self, name: str) -> Job:
        """The job of an id; a KeyError if there is none."""
        return self._jobs[name]

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        return list(reversed(self._jobs.values()))

    def add(self) -> Job | None:
        """A new job; None if there are too many, of which none can be let go."""
        if len(self._jobs) >= MAX_JOBS:
            return None
        job = Job(secrets.token_hex(16), self._folder / secrets.token_hex(16), self._clock())
        (job.folder / "scan").mkdir(parents=True)
        self._jobs[job.id] = job
        return job

    async def prepare(self) -> None:
        """Have a child ready for the next job."""
        if self._spare is None or not self._spare.alive:
            self._spare = await Worker.start(self._folder)

    def look(self, job: Job) -> None:
        """Have a child look at what was uploaded."""
        job.state = "looking"
        self._begin(job, self._look(job))

    def translate(self, job: Job, order: dict[str, Any]) -> bool:
        """Let a job wait for its turn to be translated; False if too many do."""
        if sum(other.state == "waiting" for other in self._jobs.values()) >= MAX_WAITING:
            return False
        job.state, job.view, job.error, job.progress = "waiting", None, None, None
        job.notes.clear()
        self._begin(job, self._translate(job, order))
        return True

    async def cancel(self, job: Job) -> None:
        """End what a job does."""
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.wait([job.task])
            job.state, job.progress = "cancelled", None
            await self._release(job)
            await self.prepare()
        await self._release(job)

    async def remove(self, job: Job) -> None:
        """End a job and delete all that is of it."""
        self._jobs.pop(job.id, None)
        await self.cancel(job)
        await asyncio.to_thread(shutil.rmtree, job.folder, True)

    async def remove_old(self) -> None:
        """Delete the jobs that were kept long enough."""
        for job in self.all():
            if self._clock() - job.born > KEPT_S:
                await self.remove(job)

    async def close(self) -> None:
        """End every child."""
        for task in self._tasks:
            task.cancel()
        workers = [job.worker for job in self.all()] + [self._spare]
        for worker in workers:
            if worker is not None:
                await worker.end()

    def _begin(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        job.task = asyncio.create_task(work)
        self._tasks.add(job.task)
        job.task.add_done_callback(self._tasks.discard)

    async def _look(self, job: Job) -> None:
        async with self._view:
            for other in self.all():  # a child that only waits for its user
                if other.state == "looked":
                    await self._release(other)
            await self._ask(job, LOOK_S, {"do": "look"})
            if job.state == "looking":
                job.state = "looked"
        if job.state == "failed":
            await self._release(job)
            await self.prepare()

    async def _translate(self, job: Job, order: dict[str, Any]) -> None:
        async with self._turn:
            job.state = "running"
            await self._ask(job, RUN_S, {"do": "translate", **order})
            if job.state == "running":
                job.state = "done"
        await self._release(job)
        await self.prepare()

    async def _ask(self, job: Job, limit_s: float, order: dict[str, Any]) -> None:
        """Give an order to the job's child, and take its answers until it is done."""
        try:
            if job.worker is None or not job.worker.alive:
                await self._release(job)
                await self.prepare()
                job.worker, self._spare = self._spare, None
            if job.worker is not None:
                job.worker.order(**order, folder=str(job.folder))
                async with asyncio.timeout(limit_s):
                    await self._listen(job, job.worker)
        except TimeoutError:
            _fail(job, f"not done after {limit_s:.0f} s", "drop a smaller scan")
        except OSError as error:
            _fail(job, f"no process could be started ({error.strerror})", "close other programs")

    async def _listen(self, job: Job, worker: Worker) -> None:
        async for answer in worker.answers():
            if "note" in answer:
                job.notes.append(answer["note"])
            elif "progress" in answer:
                job.progress = answer["progress"]
            elif "error" in answer:
                job.error, job.state = answer["error"], "failed"
                return
            elif "look" in answer:
                job.look = answer["look"]
                return
            elif "done" in answer:
                with (job.folder / "view" / "view.json").open("rb") as file:
                    job.view = json.loads(file.read(MAX_VIEW_BYTES))
                return
        await worker.end()
        at = job.progress or {}
        where = f" after {at['done']} of {at['total']} slices" if "done" in at else ""
        what = f"the process that read the scan ended ({worker.how_it_ended()}){where}"
        _fail(job, what, "drop a smaller scan, or check that it is intact")

    async def _release(self, job: Job) -> None:
        worker, job.worker = job.worker, None
        if worker is not None:
            await worker.end()


def _fail(job: Job, what: str, fix: str) -> None:
    job.state = "failed"
    job.error = {"code": "E700", "file": None, "what": what, "fix": fix, "exit": 7}
