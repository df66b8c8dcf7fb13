"""Reading results from devices without letting them wait for the reader."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """The same, each when the next one is under way already: who reads it then does not stop the devices."""
    waiting: list[Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
