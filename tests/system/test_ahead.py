import threading

import pytest

from ctmr.system.parallel import one_ahead


def test_results_come_in_order():
    assert list(one_ahead(lambda n: n * n, range(5))) == [0, 1, 4, 9, 16]
    assert list(one_ahead(str, [])) == []


def test_the_next_is_at_work_while_one_is_used():
    begun = [threading.Event() for _ in range(3)]

    def work(n):
        begun[n].set()
        return n

    for n in one_ahead(work, range(3)):
        if n < 2:
            assert begun[n + 1].wait(5)
        assert not any(event.is_set() for event in begun[n + 2 :])


def test_an_error_comes_at_its_turn():
    results = one_ahead(lambda n: 1 / n, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_two_stages_work_at_once():
    def doubled(items):
        return (2 * item for item in items)

    assert list(one_ahead(str, doubled(one_ahead(abs, [-1, -2, -3])))) == ["2", "4", "6"]


def test_so_many_are_at_work_and_come_in_order():
    together = threading.Barrier(3)

    def work(n):
        together.wait(5)  # breaks unless three are at work at once
        return n

    assert list(one_ahead(work, range(6), ahead=3)) == [*range(6)]
