import os

import pytest

from ctmr.system.parallel import threads


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
