"""Batches made by a thread: their order, the thread's exceptions, and its end."""

import threading

import pytest

from jaxgpt.data.loader import prefetch
from jaxgpt.errors import UserError


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_keeps_the_order_and_ends():
    assert list(prefetch(iter(range(101)), 3)) == list(range(101))
    assert list(prefetch(iter([]), 1)) == []
    assert not prefetch_threads()


def test_prefetch_raises_where_the_item_would_have_come():
    def items():
        yield from (1, 2)
        raise UserError("shard 3 is damaged")

    ahead = prefetch(items(), 5)
    assert (next(ahead), next(ahead)) == (1, 2)
    with pytest.raises(UserError, match="shard 3 is damaged"):
        next(ahead)
    assert not prefetch_threads()


def test_prefetch_works_ahead_but_not_further_and_closing_ends_the_thread():
    made, fourth = [], threading.Event()

    def items():
        number = 0
        while True:
            made.append(number)
            if len(made) == 4:
                fourth.set()
            yield number
            number += 1

    ahead = prefetch(items(), 3)
    assert next(ahead) == 0
    assert fourth.wait(30)  # made without anybody asking
    assert len(prefetch_threads()) == 1
    ahead.close()
    assert not prefetch_threads()
    assert len(made) <= 1 + 3 + 1  # taken, waiting in the queue, in the thread's hand
