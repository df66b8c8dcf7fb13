"""What was said, as dialogue JSON Lines: a conversation per line, which data preparation takes back.

`--source dialogue:FILE` reads it: {"names": ["You", "Bot"], "turns": [{"role": 0, "text": "hello"}, ...]}.
"""

import errno
import fcntl
import json
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from jaxgpt.data.dialogue import Turn
from jaxgpt.errors import UserError


class Transcript:
    """A file in which conversations are kept, each of them once. UserError where it holds anything else already."""

    def __init__(self, path: Path):
        self.path = path
        if path.exists():
            _check(path)
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; make it first")
        self.begin_another()

    def begin_another(self) -> None:
        """What was kept stays; what is kept from now on is another conversation."""
        self._begin, self._line = 0, b""  # the line of the present conversation, and where in the file it begins

    def keep(self, turns: Sequence[Turn], names: tuple[str, str]) -> bool:
        """Adds the conversation, or puts it in place of what it was before; False, with nothing done, without turns.

        Where its line is no longer the file's last, what has changed is added once more. A full disk leaves the file as
        it was, a crash at worst the present conversation unfinished.
        """
        if not turns:
            return False
        content = {"names": names, "turns": [{"role": turn.role, "text": turn.text} for turn in turns]}
        line = (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8")
        with self.path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another bot may keep its conversations in the same file
            file.seek(self._begin)
            there = file.read() if self._line else b""
            if line == self._line and there.startswith(line):
                return True
            if not self._line or there != self._line:
                self._begin, self._line = _next_line(file), b""
            common = _common(self._line, line)
            _replace(file, self._begin + common, self._line[common:], line[common:])
        self._line = line
        return True


class Transcripts:
    """The files that one conversation after the other is kept in. always: gets each of them at its end."""

    def __init__(self, always: Transcript | None = None):
        self._always = always
        self._files = {always.path.resolve(): always} if always else {}

    def save(self, path: Path, turns: Sequence[Turn], names: tuple[str, str]) -> bool:
        """`Transcript.keep` for any file."""
        file = self._files.setdefault(path.resolve(), Transcript(path))
        return file.keep(turns, names)

    def end(self, turns: Sequence[Turn], names: tuple[str, str]) -> None:
        """The conversation is over; another one begins."""
        if self._always is not None:
            self._always.keep(turns, names)
        for file in self._files.values():
            file.begin_another()


def _next_line(file: FileIO) -> int:
    """Where the next line begins; a last line without a newline gets one."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            _replace(file, end, b"", b"\n")
            end += 1
    return end


def _common(a: bytes, b: bytes) -> int:
    """Length of their common beginning."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _replace(file: FileIO, begin: int, old: bytes, new: bytes) -> None:
    """The end of the file, from `begin` on, becomes `new` as a whole; where that fails it is `old` again."""
    try:
        file.truncate(begin)
        if file.write(new) != len(new):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
        os.fsync(file.fileno())
    except BaseException:  # Ctrl-C and `kill` as well
        file.truncate(begin)
        file.write(old)
        raise


def _check(path: Path) -> None:
    """UserError unless each line is a conversation."""
    if not path.is_file():
        raise UserError(f"{path} is no file; give the name of one for the transcript")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_conversation(line):
                raise UserError(
                    f"{path}, line {number} is no conversation, so the file was left as it is; give another name for "
                    "the transcript"
                )


def _is_conversation(line: bytes) -> bool:
    try:
        value = json.loads(line)
    except ValueError:  # neither JSON nor UTF-8
        return False
    turns = value.get("turns") if isinstance(value, dict) else value
    return isinstance(turns, list) and all(isinstance(turn, str) or _has_text(turn) for turn in turns)


def _has_text(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("text"), str)
