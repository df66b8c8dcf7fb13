"""The pool of processes: order, how much is under way, and a worker that dies."""

import os
from functools import partial

import pytest

from data_prep.pool import ordered_pool
from jaxgpt.errors import UserError


def doubler():
    return lambda task: (os.getpid(), 2 * task)


def killer():
    return lambda task: os._exit(9)


@pytest.mark.slow
def test_results_come_in_order_and_little_is_under_way():
    """Sizes in MiB; 64 at most are under way, unless one alone is larger."""
    sizes = [1] * 20 + [30, 30, 30, 70, 70, 1, 1, 63, 2] + [1] * 20
    pulled, most = [], []

    def tasks():
        for number, size in enumerate(sizes):
            pulled.append(size)
            yield number

    with ordered_pool(2, doubler, lambda number: sizes[number] << 20) as run:
        for done, (task, (pid, result)) in enumerate(run(tasks())):
            assert (task, result) == (done, 2 * done)
            assert pid != os.getpid()
            # The last one that was pulled is held back.
            most.append((len(pulled) - done - 1, sum(pulled[done:-1])))
    assert len(most) == len(sizes)
    assert max(count for count, _ in most) <= 5
    assert max(total for _, total in most) <= 70
    assert most[23][1] == 70


def test_one_process_is_this_one():
    with ordered_pool(1, doubler, lambda task: 0) as run:
        assert list(run([3, 5])) == [(3, (os.getpid(), 6)), (5, (os.getpid(), 10))]


@pytest.mark.slow
def test_a_worker_that_is_killed():
    with pytest.raises(UserError, match="a worker process was killed"), ordered_pool(2, killer, lambda task: 0) as run:
        list(run(range(9)))


def failing(error):
    raise error


@pytest.mark.slow
def test_an_error_in_the_tasks_ends_the_pool():
    def tasks():
        yield from range(3)
        failing(KeyError("a"))

    with pytest.raises(KeyError), ordered_pool(2, partial(doubler), lambda task: 0) as run:
        list(run(tasks()))
