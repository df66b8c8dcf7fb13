"""CamRest676: users and a wizard talk about restaurants.

Sources: `CamRest676.json` as published (an array of dialogues whose `dial` pairs `usr.transcript` with `sys.sent`), and
the same data in ARDM's form (an array of dialogues, each an array of pairs `user`, `real_response`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.stream import Stream, StreamedFiles, json_items, stream_chunks
from data_prep.sources.turns import conversation, shown
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class CamRest(StreamedFiles):
    """Only what is said; the user is role 0."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return stream_chunks(self.files, begin, chunk_bytes, _conversations)

    def read(self, chunk: Chunk) -> Iterator[Conversation]:
        yield from chunk.data


def _conversations(stream: Stream) -> Iterator[Conversation]:
    if not stream.head.startswith(b"["):
        raise UserError(f"{stream.path}: found {stream.head[:40]!r} where an array of dialogues belongs")
    for place, value in json_items(stream):
        pairs = value.get("dial") if isinstance(value, dict) else value
        if not isinstance(pairs, list):
            raise UserError(f"{place}: found {shown(value)} where a list of pairs of turns belongs")
        yield conversation(turn for pair in pairs for turn in _turns(place, pair))


def _turns(place: str, pair: Any) -> tuple[Turn, Turn]:
    try:
        texts = (
            (pair["user"], pair["real_response"])
            if "user" in pair
            else (pair["usr"]["transcript"], pair["sys"]["sent"])
        )
    except (KeyError, TypeError):
        texts = (None, None)
    user, system = texts
    if not isinstance(user, str) or not isinstance(system, str):
        raise UserError(
            f'{place}: found {shown(pair)} where {{"usr": {{"transcript": "hello"}}, "sys": {{"sent": "hi"}}}} or '
            '{"user": "hello", "real_response": "hi"} belongs'
        )
    return Turn(user, 0), Turn(system, 1)
