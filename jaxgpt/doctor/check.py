"""What a check says, and how it is kept from waiting for ever and from bringing the others down."""

import errno
import threading
import time
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from jaxgpt.errors import UserError

Level = Literal["ok", "warn", "fail"]
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        except (UserError, OSError) as error:
            self._found.append(Line("fail", self._name, explained(error)))
        # The other checks are worth as much without this one; a library in Rust that panics raises no Exception.
        except BaseException as error:
            said = f"the check itself failed ({type(error).__name__}: {in_one_line(error)})"
            self._found.append(
                Line("fail", self._name, f"{said}; what it checks is unknown, and this is worth a report")
            )

    def wait(self, seconds: float) -> None:
        """For its end, at most until its own time is over."""
        self._thread.join(max(0.0, min(seconds, self._deadline - time.monotonic())))

    def lines(self) -> list[Line]:
        """All of them; where the time is over, a last one says so."""
        self.wait(self._seconds)
        hangs = self._thread.is_alive()  # asked first, as a thread may give its last line and end meanwhile
        found = list(self._found)
        if hangs:
            said = f"no answer within {self._seconds:g} s; see that what it asks can be reached, and try again"
            found.append(Line("fail", self._name, said))
        return found


def in_one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def explained(error: UserError | OSError) -> str:
    """A sentence with the way out, of an error that a person can mend."""
    if isinstance(error, UserError):
        return in_one_line(error)
    where = f"{error.filename}: " if error.filename is not None else ""
    way_out = "make room" if error.errno in _DISK_FULL else "check the path and its permissions"
    return in_one_line(f"{where}{error.strerror or error}; {way_out}")


def size(n_bytes: float) -> str:
    """As 61.0 GB, or 82.3 MB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"
