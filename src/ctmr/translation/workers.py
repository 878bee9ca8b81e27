"""Processes that translate the scans of a folder, each with a model of its own."""

import functools
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from logging.handlers import QueueHandler, QueueListener
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from ctmr.errors import ResourceError
from ctmr.models.devices import counted
from ctmr.models.engines import has_gpu
from ctmr.system.parallel import cores, serve, threads, worker_context
from ctmr.translation.translator import Translator

Load = Callable[[], Translator]
P = ParamSpec("P")
Result = TypeVar("Result")


class Translators:
    """A number of processes, which end with this one.

    Args:
        count: Of the processes.
        device: With `cuda` each has a GPU of its own; else they share the cores evenly.
        load: Gives each its translator; it must be of a module, as `functools.partial(load_model, ...)` is.
    """

    def __init__(self, count: int, device: Literal["cpu", "cuda"], load: Load) -> None:
        self._load = load
        context = worker_context()
        numbers = context.Queue()
        for number in range(count):
            numbers.put(number)
        said = context.Queue()
        self._heard = QueueListener(said, _Relay())
        self._heard.start()
        begin = (os.getpid(), numbers, said, count, device == "cuda")
        self._pool = ProcessPoolExecutor(count, context, _begin, begin)

    def __enter__(self) -> "Translators":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # What they are at is not waited for: outputs appear whole or not at all.
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._heard.stop()

    def each(
        self,
        work: Callable[Concatenate[Translator, ...], Result],
        arguments: Sequence[tuple[Any, ...]],
    ) -> Iterator[Result]:
        """`work(translator, *each)` of all, in order.

        Raises:
            ResourceError: If a process was killed.
        """
        try:
            for future in [self._pool.submit(_do, self._load, work, each) for each in arguments]:
                yield future.result()
        except BrokenProcessPool as error:
            raise ResourceError(
                "a process that translated was killed, perhaps for want of memory",
                fix="give a smaller --devices, and --resume to keep what was done",
            ) from error


class _Relay(logging.Handler):
    """Says what the processes say as if this one did: warnings of many scans once."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


def _begin(parent: int, numbers: Any, said: Any, count: int, gpus: bool) -> None:
    """Take a GPU, or a share of the cores, before a library counts them."""
    serve(parent)
    handlers = [QueueHandler(said)]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=handlers, force=True)
    number: int = numbers.get()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number] if visible != [""] else str(number)
        return
    each = max(1, cores() // count)
    os.environ.setdefault("OMP_NUM_THREADS", str(each))
    if hasattr(os, "sched_setaffinity"):  # which all engines obey
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[number * each : (number + 1) * each])


def runs_on(translator: Translator, several: tuple[int, str] | None) -> str:
    """What translates: device, engine, precision, processes and the threads of each."""
    count = several[0] if several else 1
    gpu = translator.engine == "torch" and has_gpu()
    each = threads() if count == 1 else max(1, cores() // count)
    return (
        f"{'cuda' if gpu else 'cpu'} with {translator.engine}, {translator.precision},"
        f" {counted(count, 'process')}, {counted(each, 'thread')} each"
    )


@functools.cache
def _loaded(load: Load) -> Translator:
    return load()


def _do(load: Load, work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    return work(_loaded(load), *arguments)
