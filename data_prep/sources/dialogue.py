"""Dialogue as JSON Lines: one conversation per line, a list of what the two speakers say in turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.jsonl import json_values
from data_prep.sources.lines import line_chunks
from data_prep.sources.turns import DialogueFiles, conversation, located, role_of, shown, weight_of
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

_HINT = 'each line must be a list of turns such as ["hello", "hi"] or [{"text": "hello", "role": 0, "weight": 1}]'


@dataclass(frozen=True)
class Dialogue(DialogueFiles):
    """A line is a list of turns, or an object that holds it as `turns`. A turn is a string or an object.

    `text`: of the turn. `role`: 0, 1 or one of two names, of which the first to appear is role 0; where it is missing
    speakers alternate. `weight`: of its loss, 1 where it is missing. Other fields are ignored.
    """

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return line_chunks(self.files, begin, chunk_bytes)

    def read(self, chunk: Chunk) -> Iterator[Conversation]:
        for number, value in json_values(chunk, _HINT):
            with located(chunk, number):
                found = _conversation(value)
            yield found


def _conversation(value: Any) -> Conversation:
    turns = value.get("turns") if isinstance(value, dict) else value
    if not isinstance(turns, list):
        raise UserError(f"found {shown(value)} where a list of turns belongs; {_HINT}")
    seen: list[int | str] = []
    return conversation(_turn(turn, index, seen) for index, turn in enumerate(turns))


def _turn(turn: Any, index: int, seen: list[int | str]) -> Turn:
    if isinstance(turn, str):
        return Turn(turn, index % 2)
    if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
        raise UserError(f"found {shown(turn)} where a turn with text belongs; {_HINT}")
    role = role_of(turn["role"], seen) if "role" in turn else index % 2
    return Turn(turn["text"], role, weight_of(turn.get("weight", 1.0)))
