"""Each item is handed on when its successor has been started."""

from collections.abc import Iterator

from jaxgpt.train.one_behind import one_behind


def test_each_item_comes_once_the_next_is_under_way() -> None:
    started = []

    def under_way() -> Iterator[int]:
        for number in range(4):
            started.append(number)
            yield number

    assert [(item, len(started)) for item in one_behind(under_way())] == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_of_one_and_of_none() -> None:
    assert list(one_behind(iter([None]))) == [None]
    assert list(one_behind(iter([]))) == []
