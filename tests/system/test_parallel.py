import multiprocessing
import os

import pytest

from ctmr.system.parallel import Workers, cores, threads


@pytest.mark.parametrize("wanted", ["", "0", "many", "-2"])
def test_threads_are_the_cores_of_the_process_where_nobody_says_how_many(wanted, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert threads() == 3


def test_threads_are_those_that_the_user_wants(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads() == 7


def test_threads_are_the_machines_where_the_system_cannot_say(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads() == 6


def _double(n):
    return 2 * n


def _ends_its_process(n):
    if multiprocessing.parent_process() is not None and n == 3:
        os._exit(9)
    return 2 * n


def test_work_on_all_cores_comes_in_order_and_is_asked_for_as_it_is_done():
    asked = []

    def items():
        for n in range(20):
            asked.append(n)
            yield n

    with Workers(2, processes=False) as workers:
        found = workers.map(_double, items())
        assert [next(found) for _ in range(3)] == [0, 2, 4]
        assert len(asked) < 10
        assert list(found) == list(range(6, 40, 2))


def test_work_goes_on_in_threads_where_a_process_is_killed(caplog):
    with Workers(1, processes=True) as workers:
        assert list(workers.map(_ends_its_process, range(8))) == list(range(0, 16, 2))
    assert caplog.text.count("the work goes on in threads") == 1


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    assert cores() == 3
