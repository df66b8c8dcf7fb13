"""Dialogue as JSON Lines: one conversation per line, a list of what the two speakers say in turn."""

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.block import Block, blocks_of_lines, lines
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError


def blocks(path: Path) -> list[Block]:
    return blocks_of_lines(path)


def read(block: Block) -> Iterator[Conversation]:
    """The block's conversations; a turn is stripped of white space at its ends, and one without text is left out.

    Raises UserError with file and line for what is not UTF-8, not JSON, or not a list of strings.
    """
    for line in lines(block):
        if line.text.isspace() or not line.text:
            continue
        try:
            turns = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f'{line.where()}: not JSON ({error}); each line must be a list of turns such as ["hello", "hi"]'
            ) from None
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            found = next((t for t in turns if not isinstance(t, str)), turns) if isinstance(turns, list) else turns
            raise UserError(
                f"{line.where()}: found {json.dumps(found)[:60]} where a string belongs; "
                'each line must be a list of strings such as ["hello", "hi"]'
            )
        try:
            "".join(turns).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{line.where()}: {error.object[error.start : error.end]!r} is half a surrogate pair and no character; "
                "write the whole character"
            ) from None
        stripped = [turn.strip() for turn in turns]
        yield Conversation(tuple(Turn(text, index % 2) for index, text in enumerate(stripped) if text))
