"""What the dialogue sources share: turns with text, roles from names, weights from numbers."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data_prep.sources.chunk import Chunk
from data_prep.sources.files import FileSource
from data_prep.sources.lines import where
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

# Pages store weights as float32.
_LARGEST_WEIGHT = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True)
class DialogueFiles(FileSource):
    """Conversations in files: the part of a source that does not depend on their format."""

    holds: ClassVar[Literal["dialogue"]] = "dialogue"


def conversation(turns: Iterable[Turn]) -> Conversation:
    """Turns are stripped of white space at their ends, and those without text are left out."""
    stripped = [(turn, turn.text.strip()) for turn in turns]
    return Conversation(
        tuple([turn if len(text) == len(turn.text) else turn._replace(text=text) for turn, text in stripped if text])
    )


def weight_of(value: Any) -> float:
    """A weight of the loss from JSON or text; UserError without a place unless it is a real number from 0 upwards."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST_WEIGHT:
        raise UserError(f"found the weight {shown(value)}; a weight is a finite number and not negative, such as 0.5")
    return float(value)


def role_of(value: Any, seen: list[int | str]) -> int:
    """The role behind 0, 1 or a name: the first name of a conversation is role 0, the second is role 1.

    seen: the roles of this conversation so far; a new one is added. UserError without a place for a third name, for
    names and numbers in one conversation, and for anything else.
    """
    named = isinstance(value, str)
    if not named and (type(value) is not int or value not in (0, 1)):
        raise UserError(f"found the role {shown(value)}; a role is 0, 1 or a name")
    if seen and named != isinstance(seen[0], str):
        raise UserError(
            f"found the role {shown(value)} after {shown(seen[0])}; write all roles as names, or all as 0 and 1"
        )
    if value not in seen:
        if named and len(seen) == 2:
            raise UserError(
                f"found a third speaker {shown(value)} beside {shown(seen[0])} and {shown(seen[1])}; keep two"
            )
        seen.append(value)
    return seen.index(value) if named else value


def shown(value: Any) -> str:
    """The beginning of a JSON value, for a message."""
    return json.dumps(value, ensure_ascii=False)[:60]


@contextmanager
def located(chunk: Chunk, number: int) -> Iterator[None]:
    """Puts file and line before the message of a UserError that was raised without a place."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where(chunk, number)}: {error}") from None
