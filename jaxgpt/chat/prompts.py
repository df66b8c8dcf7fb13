"""What of a conversation a model is given to continue, and how what it draws becomes a reply."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from jaxgpt.chat.decoding import History
from jaxgpt.data.dialogue import Conversation, DialogueFormat, EncodedConversation, Turn
from jaxgpt.data.tokenizer import Tokenizer


class Prompt(NamedTuple):
    """What the model is to continue, and the turns in it.

    room: tokens that there were for it; cut_within: its only turn did not fit and lacks its beginning; lacks_turns:
    earlier turns that were wanted did not fit.
    """

    encoded: EncodedConversation
    turns: list[Turn]
    room: int
    cut_within: bool
    lacks_turns: bool


@dataclass(frozen=True)
class Prompts:
    """The way from turns to ids and back. vocab_size, n_positions: the model's."""

    format: DialogueFormat
    tokenizer: Tokenizer
    vocab_size: int
    n_positions: int

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a reply."""
        return tuple(self.format.stop_ids(self.tokenizer))

    @cached_property
    def not_first(self) -> tuple[int, ...]:
        """The ids that can't begin one: it begins with something to read, not with its end and not with white space."""
        ends = {*self.stop_ids, self.tokenizer.eos_token_id}
        return (*_ids_without_text(self.tokenizer, self.vocab_size), *sorted(ends))

    def cut(self, turns: Sequence[Turn], role: int, max_new_tokens: int, history: History) -> Prompt:
        """As many of the last turns as there is room for before a reply of max_new_tokens by `role`; one at least.

        A last turn that does not fit alone loses its beginning.
        """
        whole = self.format.prompt(Conversation(tuple(turns)), role, self.tokenizer)
        length, fits = len(whole.ids), self.n_positions - max_new_tokens
        room = min(fits, history.tokens or fits)
        first_wanted = len(turns) - min(history.turns or len(turns), len(turns))
        first = next((n for n in range(first_wanted, len(turns)) if length - whole.starts[n] <= room), len(turns) - 1)
        begin = max(whole.starts[first], length - room)
        encoded = EncodedConversation(
            whole.ids[begin:],
            whole.weights[begin:],
            whole.roles[begin:],
            tuple(max(start - begin, 0) for start in whole.starts[first:]),
        )
        cut_within = length - whole.starts[first] > room
        return Prompt(encoded, list(turns[first:]), room, cut_within, first > first_wanted and room == fits)

    def visible(self, ids: list[int]) -> str:
        """Text of a reply, without white space before it and without the tokens that end it."""
        stop = list(self.stop_ids)
        if ids[-len(stop) :] == stop:
            ids = ids[: -len(stop)]
        return self.tokenizer.decode([id_ for id_ in ids if id_ != self.tokenizer.eos_token_id]).lstrip()


@lru_cache(maxsize=2)
def _ids_without_text(tokenizer: Tokenizer, vocab_size: int) -> tuple[int, ...]:
    return tuple(id_ for id_ in range(vocab_size) if not tokenizer.decode([id_]).strip())
