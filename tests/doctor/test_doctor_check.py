import threading
import time
from collections.abc import Iterator

from jaxgpt.doctor.check import Check, Line, size
from jaxgpt.errors import UserError

FIRST = Line("ok", "one", "done")


def test_a_mistake_of_the_user_is_a_line_after_what_was_found() -> None:
    def work() -> Iterator[Line]:
        yield FIRST
        raise UserError("a is 1;\n  make it 2")

    assert Check("name", work, 5).lines() == [FIRST, Line("fail", "name", "a is 1; make it 2")]


def test_a_check_that_crashes_is_a_line() -> None:
    def work() -> Iterator[Line]:
        yield FIRST
        raise ZeroDivisionError("by zero")

    (_, crashed) = Check("name", work, 5).lines()
    assert crashed.level == "fail"
    assert crashed.said.startswith("the check itself failed (ZeroDivisionError: by zero); ")


def test_a_check_that_hangs_is_a_line_when_its_time_is_over() -> None:
    never = threading.Event()

    def work() -> Iterator[Line]:
        yield FIRST
        never.wait(60)

    began = time.monotonic()
    assert [line.said.partition(";")[0] for line in Check("name", work, 0.3).lines()] == [
        "done",
        "no answer within 0.3 s",
    ]
    assert 0.2 < time.monotonic() - began < 3
    never.set()


def test_checks_wait_at_the_same_time() -> None:
    def work() -> Iterator[Line]:
        time.sleep(0.4)
        yield FIRST

    began = time.monotonic()
    checks = [Check("name", work, 5) for _ in range(5)]
    assert [check.lines() for check in checks] == [[FIRST]] * 5
    assert time.monotonic() - began < 1.5


def test_a_line_as_text() -> None:
    assert str(Line("ok", "python", "3.11.9")) == "ok    python         3.11.9"
    assert [size(n_bytes) for n_bytes in (61_040_000_000, 10**9, 82_345_678, 12_340)] == [
        "61.0 GB",
        "1.0 GB",
        "82.3 MB",
        "0.0123 MB",
    ]
