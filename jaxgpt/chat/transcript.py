"""What was said, as dialogue JSON Lines: a conversation per line, which data preparation takes back.

`--source dialogue:FILE` reads it: {"names": ["You", "Bot"], "turns": [{"role": 0, "text": "hello"}, ...]}.
"""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.data.dialogue import Turn
from jaxgpt.errors import UserError


class Transcript:
    """A file that conversations are added to. UserError where it holds anything else already."""

    def __init__(self, path: Path):
        self.path = path
        self._unfinished = path.exists() and not _ends_a_line(path)
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; make it first")

    def append(self, turns: Sequence[Turn], names: tuple[str, str]) -> bool:
        """Adds a conversation; False where nothing was said. A line is whole in the file or not there at all."""
        if not turns:
            return False
        content = {"names": names, "turns": [{"role": turn.role, "text": turn.text} for turn in turns]}
        line = json.dumps(content, ensure_ascii=False) + "\n"
        if self._unfinished:
            line = "\n" + line
        data = line.encode("utf-8")
        with self.path.open("ab", buffering=0) as file:  # one write, so that two programs may add to one file
            before = file.tell()
            written = file.write(data)
            if written != len(data):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(file.fileno())
        self._unfinished = False
        return True


def _ends_a_line(path: Path) -> bool:
    """Whether the last line ends with a newline; UserError unless each line is a conversation."""
    if not path.is_file():
        raise UserError(f"{path} is no file; give the name of one for the transcript")
    ended = True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not _is_conversation(line):
                raise UserError(
                    f"{path}, line {number} is no conversation, so the file was left as it is; give another name for "
                    "the transcript"
                )
            ended = line.endswith(b"\n")
    return ended


def _is_conversation(line: bytes) -> bool:
    try:
        value = json.loads(line)
    except ValueError:  # neither JSON nor UTF-8
        return False
    turns = value.get("turns") if isinstance(value, dict) else value
    return isinstance(turns, list) and all(isinstance(turn, str) or _has_text(turn) for turn in turns)


def _has_text(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("text"), str)
