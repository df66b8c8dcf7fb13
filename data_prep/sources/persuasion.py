"""PersuasionForGood: one asks the other to give to a charity.

Sources: `full_dialog.csv` as published (a row per turn; `B2` is the dialogue, `B4` the role, `Unit` the text), and
ARDM's JSON (an array of dialogues, each an array of turns such as `A:hello`).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.stream import Stream, StreamedFiles, json_items, stream_chunks, text_lines
from data_prep.sources.turns import conversation, shown
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

_COLUMNS = ("B2", "B4", "Unit")
_TAGS = {"A:": 0, "B:": 1}


@dataclass(frozen=True)
class Persuasion(StreamedFiles):
    """The persuader is role 0. In the CSV form, rows of one `B2` that follow each other are a conversation."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return stream_chunks(self.files, begin, chunk_bytes, _conversations)

    def read(self, chunk: Chunk) -> Iterator[Conversation]:
        yield from chunk.data


def _conversations(stream: Stream) -> Iterator[Conversation]:
    if stream.head.startswith(b"["):
        return (_from_tagged(place, value) for place, value in json_items(stream))
    return (conversation(turn for _, turn in rows) for _, rows in groupby(_rows(stream), key=lambda row: row[0]))


def _from_tagged(place: str, texts: Any) -> Conversation:
    if not isinstance(texts, list):
        raise UserError(f"{place}: found {shown(texts)} where a list of turns belongs")
    for text in texts:
        if not isinstance(text, str) or text[:2] not in _TAGS:
            raise UserError(f"{place}: found {shown(text)} where a turn that begins with A: or B: belongs")
    return conversation(Turn(text[2:], _TAGS[text[:2]]) for text in texts)


def _rows(stream: Stream) -> Iterator[tuple[str, Turn]]:
    """(dialogue, turn) of each row."""
    rows = csv.reader(text_lines(stream), strict=True)
    try:
        header = next(rows, [])
        if missing := [name for name in _COLUMNS if name not in header]:
            raise UserError(f"{stream.path}:1: found the columns {', '.join(header)[:200]}; {missing[0]} is missing")
        dialogue, role, unit = (header.index(name) for name in _COLUMNS)
        for row in rows:
            if not row:
                continue
            if len(row) != len(header) or row[role] not in ("0", "1"):
                raise UserError(
                    f"{stream.path}:{rows.line_num}: found {shown(row)}; a row has {len(header)} columns, and its B4 "
                    "is 0 or 1"
                )
            yield row[dialogue], Turn(row[unit], int(row[role]))
    except csv.Error as error:
        raise UserError(f"{stream.path}:{rows.line_num}: not CSV ({error}); check the quotes") from None
