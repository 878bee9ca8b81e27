"""Work in child processes that end when the one they work for does, and work on the next item while one is used."""

import os
import select
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from ctmr.errors import ResourceError


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
    if hasattr(os, "pidfd_open"):  # Linux
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


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
    usable = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(usable(0)) if usable else os.cpu_count() or 1


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
