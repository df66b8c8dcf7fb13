"""Work in a pool of processes: results in the order of the tasks, few of them under way at a time."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from jaxgpt.errors import UserError

_BYTES_UNDER_WAY = 1 << 26

T = TypeVar("T")
R = TypeVar("R")

_work: Callable[[Any], Any]


def _start_worker(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make()


def _end_with_parent() -> None:
    """A killed parent's workers would wait for more work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(task: Any) -> Any:
    return _work(task)


@contextmanager
def ordered_pool(
    processes: int, make: Callable[[], Callable[[T], R]], size: Callable[[T], int]
) -> Iterator[Callable[[Iterable[T]], Iterator[tuple[T, R]]]]:
    """A function that maps tasks to (task, result), in order. Each worker calls `make` once, for what does the work.

    size: bytes of a task. No more than a few tasks per process are under way, and large ones not beside others, so that
    memory does not grow with them. One process is this one.
    """
    if processes == 1:
        work = make()
        yield lambda tasks: ((task, work(task)) for task in tasks)
        return
    # One thread of the libraries in each process: the processes are the parallelism.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (make,)) as pool:

        def run(tasks: Iterable[T]) -> Iterator[tuple[T, R]]:
            under_way: deque[tuple[T, int, Future[R]]] = deque()
            total = 0
            for task in tasks:
                n_bytes = size(task)
                while under_way and (len(under_way) > 2 * processes or total + n_bytes > _BYTES_UNDER_WAY):
                    done, its_bytes, future = under_way.popleft()
                    total -= its_bytes
                    yield done, future.result()
                total += n_bytes
                under_way.append((task, n_bytes, pool.submit(_call, task)))
            for done, _, future in under_way:
                yield done, future.result()

        try:
            yield run
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, most often for lack of memory; run the same command again, with fewer "
                "--processes if it happens again"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
