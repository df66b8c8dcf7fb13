"""CamRest676 as conversations: with placeholders in what the system says, and what it found in what the user says."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError
from jaxgpt.experiments.replies import SYSTEM, USER

_FIELDS = {"user": str, "replaced_response": str, "degree": int}
_WHOLE_WORDS = ("name", "address")  # other values take along what a word goes on with, as in "moderately"
_SLOTS = (*_WHOLE_WORDS, "phone", "postcode", "food", "area", "pricerange")
_SHAPES = {r"c[., ]*b[., ]*\d[., ]*\d[., ]*\w[., ]*\w": "postcode", r"\d{5}\s?\d{6}": "phone"}
_MOST_ROWS = 6  # the model is told how many restaurants fit, up to this number
_PARTS = (408, 136, 132)  # of the published order: to train on, to choose by, to test on


def read_ardm(path: Path) -> list[Conversation]:
    """Of ARDM's form, in which the responses have placeholders: an array of arrays of turns."""
    dialogues = _load(path)
    return [_conversation(f"{path}: dialogue {number}", pairs) for number, pairs in enumerate(dialogues, 1)]


def read_published(path: Path, database: Path) -> tuple[list[Conversation], list[Conversation], list[Conversation]]:
    """CamRest676.json and CamRestDB.json; parts of 408, 136 and 132 dialogues, or in that ratio where there are fewer.

    A value that the user has asked for stays as it is. Source: ARDM's preprocessing.
    """
    rows, found = _load(database), list[Conversation]()
    values = {str(row[slot]): slot for row in rows for slot in _SLOTS if row.get(slot)}
    longest_first = [_Value(value, slot) for value, slot in sorted(values.items(), key=lambda item: -len(item[0]))]
    contents = [" ".join(map(str, row.values())).lower() for row in rows]
    for number, dialogue in enumerate(_load(path), 1):
        place = f"{path}: dialogue {number}"
        try:
            pairs = [_published_pair(pair, longest_first, contents) for pair in dialogue["dial"]]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{place}: {error!r}; give CamRest676.json as it was published") from None
        found.append(_conversation(place, pairs))
    first = len(found) * _PARTS[0] // sum(_PARTS)
    second = len(found) * (_PARTS[0] + _PARTS[1]) // sum(_PARTS)
    return found[:first], found[first:second], found[second:]


def _load(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get it again") from None
    if not isinstance(content, list) or not content:
        raise UserError(f"{path} has no dialogue or row; it must be an array that holds some")
    return content


def _conversation(place: str, pairs: Any) -> Conversation:
    if not isinstance(pairs, list):
        raise UserError(f"{place}: found {str(pairs)[:60]} where an array of pairs of turns belongs")
    return Conversation(tuple(turn for pair in pairs for turn in _turns(place, pair)))


def _turns(place: str, pair: Any) -> Iterator[Turn]:
    """The user's with how many restaurants fit in a last line: ARDM's model gets that number before the response."""
    for name, kind in _FIELDS.items():
        value = pair.get(name) if isinstance(pair, dict) else None
        if not isinstance(value, kind) or not str(value).strip():
            raise UserError(f"{place}: {name} is {value!r}; it must be a {kind.__name__} that is not empty")
    yield Turn(f"{pair['user'].strip()}\n{pair['degree']}", USER)
    yield Turn(pair["replaced_response"].strip(), SYSTEM)


def _published_pair(pair: Mapping[str, Any], values: Sequence["_Value"], contents: Sequence[str]) -> dict[str, Any]:
    informed = [act["slots"][0][1] for act in pair["usr"]["slu"] if act["act"] == "inform"]
    asked = [word for value in informed if value not in ("dontcare", "none") for word in value.split()]
    return {
        "user": pair["usr"]["transcript"],
        "degree": min(sum(all(word.lower() in row for word in asked) for row in contents), _MOST_ROWS),
        "replaced_response": _delexicalised(pair["sys"]["sent"], values, " ".join(asked)),
    }


@dataclass(frozen=True)
class _Value:
    """Of a row of the database."""

    text: str
    slot: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        rest = r"(?![^\W_])" if self.slot in _WHOLE_WORDS else r"[^\W_]*"
        return re.compile(rf"(?<![^ ]){re.escape(self.text)}{rest}", re.IGNORECASE)


def _delexicalised(text: str, values: Sequence[_Value], asked: str) -> str:
    for shape, slot in _SHAPES.items():
        text = re.sub(shape, f"<{slot}_SLOT>", text, flags=re.IGNORECASE)
    for value in values:
        if value.text not in asked:
            text = value.pattern.sub(f"<{value.slot}_SLOT>", text)
    return text
