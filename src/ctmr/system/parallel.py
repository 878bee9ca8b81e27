"""Work in child processes that end when the one they work for does, and work on the next item while one is used."""

import logging
import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from ctmr.errors import ResourceError

logger = logging.getLogger(__name__)

LAUNCHER = "CTMR_LAUNCHER"  # in the environment of processes that `--devices` started


def worker_context(*preload: str) -> BaseContext:
    """How workers are started: by a fork server, which has imported `preload` once, or afresh where there is none.

    A fork of a process that has threads (torch, progress bars) can hang, and Python 3.12 warns of it.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    if preload:
        context.set_forkserver_preload([*preload])
    return context


def serve(parent: int) -> None:
    """Make this process, a worker, end with `parent`; to be called first in it.

    Neither the fork server that made it nor a closed pipe tells a worker that its parent was killed, since other workers hold
    the pipe too. Ctrl-C and a closed terminal go to all processes of a group, and are the parent's to answer.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_with(parent)


def end_with(parent: int) -> None:
    """Make this process end within moments of `parent`, however that ends."""
    if hasattr(os, "pidfd_open"):  # Linux
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def watch_for_death(processes: Sequence[int], tell: Callable[[int, int], object]) -> None:
    """Call `tell(process, signal)` from a thread when one of the processes has ended; 0 where it was by no signal.

    Only its parent may ask for that. All others see it as long as the parent has not, which asks ten times a second.
    """
    if hasattr(os, "pidfd_open") and processes:  # Linux
        watched = {os.pidfd_open(process): process for process in processes}
        threading.Thread(target=_watch, args=(watched, tell), daemon=True).start()


def process_space() -> str:
    """Names what process IDs are unique in: the machine and its namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _watch(watched: dict[int, int], tell: Callable[[int, int], object]) -> None:
    while watched:
        for ended in select.select([*watched], [], [])[0]:
            process = watched.pop(ended)
            os.close(ended)
            try:
                # The last field is the status that `wait` gives; 0 to those who may not know it.
                status = int(Path(f"/proc/{process}/stat").read_text().split()[-1])
            except (OSError, ValueError):
                status = 0
            tell(process, status & 0x7F)


def _end_with(parent: int) -> None:
    try:
        watched = os.pidfd_open(parent)
    except ProcessLookupError:
        os._exit(1)
    except OSError:  # a kernel without it
        return
    select.select([watched], [], [])  # readable once the process has ended
    os._exit(1)


def threads() -> int:
    """How many threads a computation takes: OMP_NUM_THREADS, else the cores that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return cores()


Result = TypeVar("Result")


def in_processes(
    function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[Result]:
    """`function(*each)` of all, in order; one head at 256 pixels takes about 1 GB."""
    processes = max(1, min(len(arguments), os.cpu_count() or 1, 8))
    pool = ProcessPoolExecutor(processes, worker_context(), serve, (os.getpid(),))
    try:
        for future in [pool.submit(function, *each) for each in arguments]:
            yield future.result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a process that made heads was killed, perhaps for want of memory",
            fix="free memory, or make smaller heads with --size",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


Item = TypeVar("Item")


def one_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 1
) -> Iterator[Result]:
    """The results of some work on each item, in order, the next at work in a thread while one is used.

    Args:
        work: Done in a thread.
        items: Asked for in the thread that uses the results.
        ahead: How many of the next are at work, each in a thread of its own.
    """
    with ThreadPoolExecutor(ahead) as pool:
        started = deque[Future[Result]]()
        for item in items:
            started.append(pool.submit(work, item))
            if len(started) > ahead:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()


def cores() -> int:
    """How many cores this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(usable(0)) if usable else os.cpu_count() or 1


class Workers:
    """Does work on all cores: in threads, or in processes where there is enough of it for their start to pay.

    Where processes cannot be had, or one is killed, the work goes on in threads: what comes out is the same.

    Args:
        count: How many there are.
        processes: Whether they are processes; what they are given and give back is pickled.
    """

    def __init__(self, count: int, *, processes: bool) -> None:
        self._count, self._processes = count, processes
        self._pool: Executor = ThreadPoolExecutor(count)
        if processes:
            self._pool = ProcessPoolExecutor(count, worker_context(), serve, (os.getpid(),))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], ahead: int = 2
    ) -> Iterator[Result]:
        """The results of some work on each item, in order; so many for each worker are under way or wait to be taken."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, self._submit(function, item)))
            if len(waiting) >= ahead * self._count:
                yield self._first(function, waiting)
        while waiting:
            yield self._first(function, waiting)

    def _first(
        self, function: Callable[[Item], Result], waiting: deque[tuple[Item, Future[Result]]]
    ) -> Result:
        item, future = waiting.popleft()
        try:
            return future.result()
        except BrokenProcessPool:
            self._go_on_in_threads()
            again = [each for each, _ in waiting]
            waiting.clear()
            waiting.extend((each, self._submit(function, each)) for each in again)
            return function(item)

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool:
            self._go_on_in_threads()
            return self._pool.submit(function, item)

    def _go_on_in_threads(self) -> None:
        if self._processes:
            logger.warning("a process was killed or could not start: the work goes on in threads")
            self._pool.shutdown(cancel_futures=True)
            self._pool, self._processes = ThreadPoolExecutor(self._count), False
