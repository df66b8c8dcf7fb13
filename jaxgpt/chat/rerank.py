"""Several replies are drawn and the best is said.

Best by its own likelihood, or by maximum mutual information: the one after which a model of reversed conversations
finds what was said before the likeliest.
Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models"; Zhang et al. 2020,
"DialoGPT", section 3.4.
"""

from dataclasses import dataclass

import numpy as np

from jaxgpt.chat.engine import BOT, Reader
from jaxgpt.data.dialogue import Conversation, DialogueFormat, EncodedConversation, Turn
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Candidates:
    """n: replies to draw; reverse: a model of the same pages built with `--reverse`, or None for own likelihood."""

    n: int
    reverse: Reader | None = None

    def __post_init__(self) -> None:
        if self.n < 2:
            raise UserError(f"--candidates is {self.n}; it must be 2 or more for one to be chosen")

    def check(self, dialogue_format: DialogueFormat, tokenizer: Tokenizer) -> None:
        """UserError unless the reverse model reads what a model with these writes."""
        if self.reverse is None:
            return
        for what, ours, theirs in (
            ("dialogue_format", dialogue_format.name, self.reverse.format.name),
            ("tokenizer", tokenizer.hash[:12], self.reverse.tokenizer.hash[:12]),
        ):
            if ours != theirs:
                raise UserError(
                    f"--reverse_model has {what} {theirs}, --model has {ours}; train both on pages of one tokenizer "
                    "and format"
                )

    def check_room(self, longest: int) -> None:
        """UserError where a reply of `longest` tokens leaves the reverse model no room for a token said before it.

        A reply is encoded anew for the reverse model, and one that is as long as that may take some tokens more.
        """
        if self.reverse is None:
            return
        positions = self.reverse.cfg.n_positions
        around = _first_scored(_encoded(self.reverse, (Turn("", 0, 0.0), Turn("", 1))))
        if longest + around >= positions:
            raise UserError(
                f"--max_new_tokens {longest} and the {around} tokens around a reply fill the n_positions {positions} "
                f"of --reverse_model; try {positions // 2}"
            )


def best_reply(
    engine: Reader,
    candidates: Candidates,
    prompt: EncodedConversation,
    turns: list[Turn],
    replies: list[list[int]],
    texts: list[str],
    role: int = BOT,
) -> list[int]:
    """The one of `replies` (ids) with the highest score; turns: those in the prompt; texts: of the replies.

    role: of who replies.
    """
    if candidates.reverse is None:
        scores = own_scores(engine, prompt, replies, role)
    else:
        scores = reverse_scores(candidates.reverse, turns, texts, role)
    return replies[int(np.argmax(scores))]


def own_scores(engine: Reader, prompt: EncodedConversation, replies: list[list[int]], role: int = BOT) -> list[float]:
    """log P(reply | prompt) of each, in nats per token, what ends it included."""
    return engine.mean_log_likelihood(
        [
            EncodedConversation(
                np.concatenate([prompt.ids, np.array(reply, np.int64)]),
                np.repeat(np.array([0.0, 1.0], np.float32), [len(prompt.ids), len(reply)]),
                np.concatenate([prompt.roles, np.full(len(reply), role, np.uint8)]),
                prompt.starts,
            )
            for reply in replies
        ]
    )


def reverse_scores(reverse: Reader, turns: list[Turn], texts: list[str], role: int = BOT) -> list[float]:
    """log P(turns | reply) of each, in nats per token: the reply first, then the turns from the last to the first.

    As in reversed pages the first to speak has role 0. All replies are asked about the same tokens: about as many
    last turns as fit behind the longest of them.
    """
    backward = [Turn(turn.text, turn.role ^ role) for turn in reversed(turns)]
    encoded = [_encoded(reverse, (Turn(text, 0, 0.0), *backward)) for text in texts]
    room = reverse.cfg.n_positions - max(one.starts[1] for one in encoded)
    if reverse.cfg.n_positions <= max(_first_scored(one) for one in encoded):
        raise UserError(
            f"a reply fills the n_positions {reverse.cfg.n_positions} of --reverse_model; lower --max_new_tokens"
        )
    # Where the turns begin, and where the last one ends, counted from the end of the reply.
    edges = [
        *(start - encoded[0].starts[1] for start in encoded[0].starts[2:]),
        len(encoded[0].ids) - encoded[0].starts[1],
    ]
    context = max((edge for edge in edges if edge <= room), default=room)
    return reverse.mean_log_likelihood([_first(one, one.starts[1] + context) for one in encoded])


def _encoded(engine: Reader, turns: tuple[Turn, ...]) -> EncodedConversation:
    texts = [engine.format.turn_text(turn) for turn in turns]
    return engine.format.join(Conversation(turns), engine.tokenizer.encode_batch(texts), engine.tokenizer)


def _first_scored(encoded: EncodedConversation) -> int:
    """The token behind the one that ends the reply, which in the format sep stands where the next turn starts."""
    return int(encoded.weights.argmax())


def _first(encoded: EncodedConversation, length: int) -> EncodedConversation:
    starts = tuple(start for start in encoded.starts if start < length)
    return EncodedConversation(encoded.ids[:length], encoded.weights[:length], encoded.roles[:length], starts)
