"""What a check says, and how it is kept from waiting for ever and from bringing the others down."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from jaxgpt.errors import UserError

Level = Literal["ok", "warn", "fail"]


class Line(NamedTuple):
    """What was found out. said: one sentence, which with warn and fail ends in the way out."""

    level: Level
    name: str
    said: str

    def __str__(self) -> str:
        return f"{self.level:4}  {self.name:14} {self.said}"


class Check:
    """A check at work in a thread of its own from when it is made; work: gives its lines as it finds them out."""

    def __init__(self, name: str, work: Callable[[], Iterable[Line]], seconds: float):
        self._name, self._work, self._seconds = name, work, seconds
        self._found: list[Line] = []
        self._deadline = time.monotonic() + seconds
        self._thread = threading.Thread(target=self._run, daemon=True)  # one that hangs lets the command end
        self._thread.start()

    def _run(self) -> None:
        try:
            for line in self._work():
                self._found.append(line)
        except UserError as error:
            self._found.append(Line("fail", self._name, in_one_line(error)))
        except Exception as error:  # the other checks are worth as much without this one
            said = f"the check itself failed ({type(error).__name__}: {in_one_line(error)})"
            self._found.append(
                Line("fail", self._name, f"{said}; what it checks is unknown, and this is worth a report")
            )

    def lines(self) -> list[Line]:
        """All of them; where the time is over, a last one says so."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            said = f"no answer within {self._seconds:g} s; see that what it asks can be reached, and try again"
            found.append(Line("fail", self._name, said))
        return found


def in_one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())


def size(n_bytes: float) -> str:
    """As 61.0 GB, or 82.3 MB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"
