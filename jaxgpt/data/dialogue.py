"""Conversations, and the three ways to write them as tokens.

Data preparation, the exported chat template and the bot all write a conversation through `DialogueFormat`, so that a
bot is prompted with exactly what its model was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer

FormatName = Literal["eos", "tags", "sep"]
LossOn = Literal["all", "responses", "last", "role0", "role1"]


class Turn(NamedTuple):  # corpora have hundreds of millions, and a dataclass takes three times as long to make
    """What one speaker says at once. role: 0 opened the conversation, 1 answers; weight: of its loss."""

    text: str
    role: int
    weight: float = 1.0


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]

    @classmethod
    def alternating(cls, texts: Sequence[str]) -> "Conversation":
        return cls(tuple(Turn(text, index % 2) for index, text in enumerate(texts)))


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as arrays of one length T.

    ids int; weights float32, of predicting this token (0 at position 0, which nothing predicts); roles uint8.
    starts: where each turn begins, the first at 0; a cut at one of them leaves every turn whole.
    """

    ids: np.ndarray
    weights: np.ndarray
    roles: np.ndarray
    starts: tuple[int, ...]


@dataclass(frozen=True)
class EncodedConversations:
    """Several of them in the same arrays of length T, one after the other.

    edges (n + 1,): where each begins and the last ends; turn_starts: where each turn of all of them begins;
    first_turn (n + 1,): the number of each conversation's first turn.
    """

    ids: np.ndarray
    weights: np.ndarray
    roles: np.ndarray
    edges: np.ndarray
    turn_starts: np.ndarray
    first_turn: np.ndarray

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int) -> EncodedConversation:
        here = slice(self.edges[index], self.edges[index + 1])
        starts = self.turn_starts[self.first_turn[index] : self.first_turn[index + 1]] - here.start
        return EncodedConversation(self.ids[here], self.weights[here], self.roles[here], tuple(starts.tolist()))


@dataclass(frozen=True)
class DialogueFormat:
    """How a turn is written: its speaker's tag, its text, an ending text, an ending token.

    An opening token stands before the first turn. With `ending_is_next` the ending token carries the role of the
    speaker who comes next, because it opens that turn as well.
    """

    name: FormatName
    tags: tuple[str, str] = ("", "")
    ending_text: str = ""
    ending_token: Literal["", "eos", "<sep>"] = ""
    opening_token: Literal["", "<sep>"] = ""
    ending_is_next: bool = False

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that the tokenizer must know beside its own."""
        return ("<sep>",) if self.ending_token == "<sep>" else ()

    def ends_within(self, turn: Turn) -> bool:
        """Whether the turn's own text holds what ends a turn in this format."""
        return bool(self.ending_text) and self.ending_text in turn.text

    def turn_text(self, turn: Turn) -> str:
        """What the tokenizer sees of a turn, encoded as one string; an ending within the text is shortened."""
        text = turn.text
        while self.ending_text and self.ending_text in text:
            text = text.replace(self.ending_text, self.ending_text[:-1])
        return f"{self.tags[turn.role]}{text}{self.ending_text}"

    def ending_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids that follow a turn beyond its text."""
        if self.ending_token == "eos":
            return [tokenizer.eos_token_id]
        return [tokenizer.token_id(self.ending_token)] if self.ending_token else []

    def opening_ids(self, tokenizer: Tokenizer) -> list[int]:
        return [tokenizer.token_id(self.opening_token)] if self.opening_token else []

    def stop_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The ids that end a turn, in order; a reply is over when it ends with them."""
        return tokenizer.encode(self.ending_text) + self.ending_ids(tokenizer)

    def join(
        self, conversation: Conversation, turn_ids: Sequence[Sequence[int]], tokenizer: Tokenizer
    ) -> EncodedConversation:
        """The conversation from its turns' encoded texts (each that of `turn_text`)."""
        text_ids = np.array([token for ids in turn_ids for token in ids], np.int64)
        text_starts = np.cumsum([0, *map(len, turn_ids)])
        return self.join_all([conversation], text_ids, text_starts, tokenizer)[0]

    def join_all(
        self, conversations: Sequence[Conversation], text_ids: np.ndarray, text_starts: np.ndarray, tokenizer: Tokenizer
    ) -> EncodedConversations:
        """Conversations from the ids of all their turns' texts, one after the other.

        text_ids int (n,); text_starts int (turns + 1,), where each text begins and the last one ends.
        """
        ending, opening = self.ending_ids(tokenizer), self.opening_ids(tokenizer)
        turns = [turn for conversation in conversations for turn in conversation.turns]
        n_turns = np.array([len(conversation.turns) for conversation in conversations])
        after_last = np.cumsum(n_turns)
        first = after_last - n_turns
        turn_roles = np.array([turn.role for turn in turns], np.uint8)
        lengths = np.diff(text_starts)
        sizes = lengths + len(ending)
        sizes[first] += len(opening)
        ends = np.cumsum(sizes)
        text_begins = ends - len(ending) - lengths

        ids = np.empty(ends[-1], np.int64)
        ids[np.arange(len(text_ids)) + np.repeat(text_begins - text_starts[:-1], lengths)] = text_ids
        weights = np.repeat(np.array([turn.weight for turn in turns], np.float32), sizes)
        roles = np.repeat(turn_roles, sizes)
        following = np.roll(turn_roles, -1)
        following[after_last - 1] = 1 - turn_roles[after_last - 1]
        for back, token in enumerate(reversed(ending), start=1):
            ids[ends - back] = token
            if self.ending_is_next:
                roles[ends - back] = following
        for back, token in enumerate(reversed(opening), start=1):
            ids[text_begins[first] - back] = token
        edges = np.concatenate([[0], ends[after_last - 1]])
        weights[edges[:-1]] = 0.0
        # A token that ends one turn and opens the next belongs to the next when a conversation is cut.
        starts = text_begins - len(opening)
        return EncodedConversations(ids, weights, roles, edges, starts, np.concatenate([[0], after_last]))

    def prompt(self, conversation: Conversation, reply_role: int, tokenizer: Tokenizer) -> EncodedConversation:
        """The conversation so far and the tag of the speaker who replies: what a bot's model continues."""
        texts = [self.turn_text(turn) for turn in conversation.turns]
        encoded = self.join(conversation, tokenizer.encode_batch(texts), tokenizer)
        tag = tokenizer.encode(self.tags[reply_role])
        return EncodedConversation(
            np.concatenate([encoded.ids, np.array(tag, np.int64)]),
            np.concatenate([encoded.weights, np.zeros(len(tag), np.float32)]),
            np.concatenate([encoded.roles, np.full(len(tag), reply_role, np.uint8)]),
            encoded.starts,
        )

    def chat_template(self) -> str:
        """Jinja template that writes Hugging Face messages (user is role 0, assistant role 1) in this format."""
        content = "{{ message['content'].strip() }}"
        if self.name == "eos":
            return "{% for message in messages %}" + content + "{{ eos_token }}{% endfor %}"
        if self.name == "sep":
            return "<sep>{% for message in messages %}" + content + "<sep>{% endfor %}"
        return (
            "{% for message in messages %}{{ 'B:' if message['role'] == 'assistant' else 'A:' }}"
            + content
            + "{{ '\\n\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'B:' }}{% endif %}"
        )


FORMATS: dict[FormatName, DialogueFormat] = {
    "eos": DialogueFormat("eos", ending_token="eos"),
    "tags": DialogueFormat("tags", tags=("A:", "B:"), ending_text="\n\n\n"),
    "sep": DialogueFormat("sep", ending_token="<sep>", opening_token="<sep>", ending_is_next=True),
}


def format_of(name: str | None) -> DialogueFormat | None:
    """The format that a checked file names; None for documents."""
    return FORMATS[name] if name else None  # type: ignore[index]  # one of the names, or a KeyError


def weigh(conversation: Conversation, loss_on: LossOn) -> Conversation:
    """The conversation with weight 0 on every turn that `loss_on` leaves out; `responses` leaves out the first."""
    if loss_on == "all":
        return conversation
    last = len(conversation.turns) - 1
    counts = {
        "responses": lambda index, turn: index > 0,
        "last": lambda index, turn: index == last,
        "role0": lambda index, turn: turn.role == 0,
        "role1": lambda index, turn: turn.role == 1,
    }[loss_on]
    return Conversation(
        tuple(
            turn if counts(index, turn) else Turn(turn.text, turn.role, 0.0)
            for index, turn in enumerate(conversation.turns)
        )
    )


def cut(encoded: EncodedConversation, row_length: int) -> list[EncodedConversation]:
    """Pieces of at most `row_length` tokens, cut where turns begin, that overlap by one turn.

    The turn that a piece repeats is context: its weights are 0, so each token is still predicted exactly once. Where
    two turns do not fit together only the last token is repeated, and a turn that does not fit even so is cut within.
    """
    length = len(encoded.ids)
    edges = [*encoded.starts, length]
    pieces: list[EncodedConversation] = []
    start = done = 0  # where the piece begins; before `done` every token has been predicted already
    while done < length:
        stop = length
        if length - start > row_length:
            edge = max(edge for edge in edges if edge <= start + row_length)
            stop = edge if edge > done else start + row_length
        weights = encoded.weights[start:stop].copy()
        weights[: max(done - start, 1)] = 0.0
        pieces.append(
            EncodedConversation(
                encoded.ids[start:stop],
                weights,
                encoded.roles[start:stop],
                tuple(edge - start for edge in encoded.starts if start <= edge < stop),
            )
        )
        done = stop
        previous = max(edge for edge in edges if edge < stop)
        following = min((edge for edge in edges if edge > stop), default=length)
        start = previous if following - previous <= row_length else stop - 1
    return pieces
