"""MultiWOZ: talk between a user and a system, in the forms in which it was published.

Sources: `data.json` of MultiWOZ 2.0 and 2.1 (an object: a dialogue's id, then its `log` of turns with `text`), also as
ConvLab-2 zips it; `dialogues_*.json` of MultiWOZ 2.2 (an array of dialogues whose `turns` have `speaker` and
`utterance`); MultiWOZ 2.2 as plain text (a turn per line, two blank lines after each dialogue).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.stream import Stream, StreamedFiles, json_fields, json_items, stream_chunks, text_lines
from data_prep.sources.turns import conversation, shown
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

_SPEAKERS = {"USER": 0, "SYSTEM": 1}


@dataclass(frozen=True)
class MultiWOZ(StreamedFiles):
    """Only what is said; the user is role 0. The form is told by how a file begins."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return stream_chunks(self.files, begin, chunk_bytes, _conversations)

    def read(self, chunk: Chunk) -> Iterator[Conversation]:
        yield from chunk.data


def _conversations(stream: Stream) -> Iterator[Conversation]:
    if stream.head.startswith(b"{"):
        return (_from_log(place, value) for place, value in json_fields(stream))
    if re.match(rb"\[\s*[{\]]", stream.head):  # plain text may begin with a slot such as [chinese]
        return (_from_turns(place, value) for place, value in json_items(stream))
    return _from_text(stream)


def _from_log(place: str, dialogue: Any) -> Conversation:
    log = dialogue.get("log") if isinstance(dialogue, dict) else None
    if not isinstance(log, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("text"), str) for turn in log
    ):
        raise UserError(f'{place}: found {shown(dialogue)} where {{"log": [{{"text": "hello"}}]}} belongs')
    return conversation(Turn(turn["text"], index % 2) for index, turn in enumerate(log))


def _from_turns(place: str, dialogue: Any) -> Conversation:
    turns = dialogue.get("turns") if isinstance(dialogue, dict) else None
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("utterance"), str) and turn.get("speaker") in _SPEAKERS
        for turn in turns
    ):
        wanted = '{"turns": [{"speaker": "USER" or "SYSTEM", "utterance": "hello"}]}'
        raise UserError(f"{place}: found {shown(dialogue)} where {wanted} belongs")
    return conversation(Turn(turn["utterance"], _SPEAKERS[turn["speaker"]]) for turn in turns)


def _from_text(stream: Stream) -> Iterator[Conversation]:
    texts: list[str] = []
    blank = 0
    for line in text_lines(stream):
        if line.strip():
            texts.append(line)
            blank = 0
            continue
        blank += 1
        if blank == 2 and texts:
            yield _alternating(texts)
            texts = []
    if texts:
        yield _alternating(texts)


def _alternating(texts: list[str]) -> Conversation:
    return conversation(Turn(text, index % 2) for index, text in enumerate(texts))
