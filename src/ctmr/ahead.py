"""Work on the next item while one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of some work on each item, in order, the next at work in a thread while one is used."""
    with ThreadPoolExecutor(1) as thread:
        following: Future[Result] | None = None
        for item in items:
            current, following = following, thread.submit(work, item)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()
