"""DialoGPT's table: a source and its target on each line, parted by a tab.

Source: prepro.py and prepare4db.sh of microsoft/DialoGPT, which writes `0.0 source<TAB>1.0 target`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.lines import line_chunks, lines
from data_prep.sources.turns import DialogueFiles, conversation, located, weight_of
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

_HINT = "each line must be `source<TAB>target`, turns within them parted by ` EOS `"
_LOOKS_LIKE_WEIGHT = re.compile(r"[-+]?(\d+\.\d[\d.]*([eE][-+]?\d+)?|nan|inf)")


@dataclass(frozen=True)
class DialoGPT(DialogueFiles):
    """`source<TAB>target`, each of them turns parted by ` EOS `, speakers alternating.

    A turn may begin with the weight of its loss and a space. A weight has digits on both sides of a decimal point
    (`0.35 hello`), so `2 dogs` is text; without one a turn has weight 1. As in the original the first turn's weight
    is 0, and a conversation in which no turn has any weight is left out. More columns are more references: each makes
    a conversation with the source.

    reverse: the turns in the opposite order, for a model of the source given the target (MMI). The turn that opened
    the conversation is then the one to learn; where its weight is 0, which only says that nothing came before it, it
    takes the target's.
    """

    reverse: bool = False

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return line_chunks(self.files, begin, chunk_bytes)

    def read(self, chunk: Chunk) -> Iterator[Conversation | Dropped]:
        for number, line in lines(chunk):
            with located(chunk, number):
                conversations = self._conversations(line)
            for found in conversations:
                if any(turn.weight > 0 for turn in found.turns):
                    yield found
                else:
                    yield Dropped("no turn with a weight", line[:80])

    def _conversations(self, line: str) -> list[Conversation]:
        source, *targets = line.split("\t")
        if not targets:
            raise UserError(f"found no tab in {line[:60]!r}; {_HINT}")
        before = _turns(source)
        return [self._conversation(before + _turns(target)) for target in targets]

    def _conversation(self, texts: list[tuple[str, float]]) -> Conversation:
        turns = conversation(Turn(text, index % 2, weight) for index, (text, weight) in enumerate(texts)).turns
        if self.reverse:
            opening, target = turns[0], turns[-1]
            turns = (*turns[:0:-1], Turn(opening.text, opening.role, opening.weight or target.weight))
            turns = tuple(Turn(turn.text, turn.role ^ target.role, turn.weight) for turn in turns)
        return Conversation((Turn(turns[0].text, turns[0].role, 0.0), *turns[1:]))


def _turns(side: str) -> list[tuple[str, float]]:
    """(text, weight) of each turn of a source or target; UserError without a place where none has text."""
    turns = [_weighted(turn.lstrip(" ")) for turn in side.split(" EOS ")]
    if not any(text.strip() for text, _ in turns):
        raise UserError(f"found a source or target without text; {_HINT}")
    return turns


def _weighted(turn: str) -> tuple[str, float]:
    token, space, text = turn.partition(" ")
    if not space or not _LOOKS_LIKE_WEIGHT.fullmatch(token):
        return turn, 1.0
    try:
        return text, weight_of(float(token))
    except ValueError:  # float's, and the UserError of a negative or infinite number
        raise UserError(
            f"found {token!r}, a weight that is not a number from 0 upwards; if it is text, write a weight such as 1.0 "
            "before it"
        ) from None
