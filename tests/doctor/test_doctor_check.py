import errno
import os
import threading
import time
from collections.abc import Iterator

import pytest

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


def test_a_check_that_ends_with_what_is_no_exception_is_a_line() -> None:
    """As a panic of a library in Rust, or one that leaves Python."""

    def work() -> Iterator[Line]:
        yield FIRST
        raise SystemExit(3)

    (_, crashed) = Check("name", work, 5).lines()
    assert crashed.said.startswith("the check itself failed (SystemExit: 3); ")


@pytest.mark.parametrize(
    ("number", "way_out"), [(errno.EACCES, "check the path and its permissions"), (errno.ENOSPC, "make room")]
)
def test_a_file_that_can_not_be_used_is_a_line_with_the_way_out(number: int, way_out: str) -> None:
    def work() -> Iterator[Line]:
        raise OSError(number, os.strerror(number), "/closed")
        yield

    assert Check("name", work, 5).lines() == [Line("fail", "name", f"/closed: {os.strerror(number)}; {way_out}")]


def test_a_line_at_the_last_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread gives it and ends while its state is being asked for."""
    may_end = threading.Event()

    def work() -> Iterator[Line]:
        may_end.wait(60)
        yield FIRST

    check = Check("name", work, 0.05)
    is_alive = check._thread.is_alive

    def ends_now() -> bool:
        may_end.set()
        check._thread.join(5)
        return is_alive()

    monkeypatch.setattr(check._thread, "is_alive", ends_now)
    assert check.lines() == [FIRST]


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
