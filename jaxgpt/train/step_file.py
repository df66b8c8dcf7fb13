"""A log on disk that can be cut back to an earlier step."""

import re
from pathlib import Path


class StepFile:
    """A file that grows by entries, each of one step, in the order of steps.

    Opening it keeps what is of steps up to `last_step`: later ones are of a past that was lost with its process.

    begins: how an entry begins, with its step as group 1; header: the first line of the file, with its end
    """

    def __init__(self, path: Path, begins: bytes, last_step: int, header: str = ""):
        self.path, self._header = path, header
        self._begins = re.compile(begins, re.MULTILINE)
        # Entries smaller than the buffer are written whole or, on a full disk, kept and tried again with the next one.
        self._file = path.open("ab", buffering=1 << 16)
        self.cut(last_step)

    def write(self, entry: str) -> None:
        self._file.write(entry.encode())
        self._file.flush()

    def cut(self, last_step: int) -> None:
        """Takes away entries of later steps, and a last line that a killed process did not end."""
        self._file.flush()
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        later = (entry.start() for entry in self._begins.finditer(content, 0, whole) if int(entry[1]) > last_step)
        end = next(later, whole)
        if end < len(content):
            self._file.truncate(end)  # in place, so that it works on a full disk, too
        if end == 0 and self._header:
            self.write(self._header)

    def last_line(self) -> str:
        """Without its end; empty for an empty file."""
        lines = self.path.read_bytes().splitlines()
        return lines[-1].decode(errors="replace") if lines else ""

    def close(self) -> None:
        self._file.close()
