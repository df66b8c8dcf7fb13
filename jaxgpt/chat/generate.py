"""Text from prompts, in JAX: many at once, of any lengths, or one that streams."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgpt.chat.decoding import Decoding, check_stops
from jaxgpt.chat.streaming import encodable, settled
from jaxgpt.decode.beam import beam_search
from jaxgpt.decode.loop import advance, drawn_ids, set_up, start
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.decode.rules import make_rules
from jaxgpt.errors import UserError
from jaxgpt.train.models import Model

_PIECE = 8  # tokens between two looks at the text, where a stop text or a stream needs them


@dataclass(frozen=True)
class Completion:
    """What follows a prompt. tokens: how many were drawn; ended: by itself, not by their number."""

    prompt: str
    text: str
    tokens: int
    ended: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Generator:
    """A model with its compiled loop. stops: texts before which a completion ends; end-of-text ends it as well."""

    def __init__(self, model: Model, decoding: Decoding, stops: Sequence[str] = ()):
        check_stops(stops, decoding)
        self._tokenizer, self._decoding, self._stops = model.tokenizer, decoding, tuple(stops)
        self._cfg, self._params = for_decoding(model.cfg, model.params)
        positions = self._cfg.n_positions
        self._max_new = decoding.longest(positions)
        self._seed = int(np.random.SeedSequence(decoding.seed).generate_state(1)[0])
        self._modes, self._rules = make_rules(
            self._cfg.vocab_size,
            **decoding.rules(),
            eos_id=self._tokenizer.eos_token_id,
        )

    def complete(self, prompts: Sequence[str], batch_size: int = 8) -> Iterator[Completion]:
        """In the order of the prompts; UserError names one that leaves no room for max_new_tokens."""
        ids = [self._encode(prompt, number) for number, prompt in enumerate(prompts, start=1)]
        for begin_at in range(0, len(prompts), batch_size):
            here = slice(begin_at, begin_at + batch_size)
            # A prompt's draws depend on its number, not on the batch that it happens to be in.
            for prompt, (text, tokens, ended) in zip(prompts[here], self._batch(ids[here], begin_at), strict=True):
                yield Completion(prompt, text, tokens, ended)

    def stream(self, prompt: str) -> Iterator[str]:
        """The pieces of one completion while it is drawn; half characters, and what may begin a stop text, wait."""
        sent = ""
        for texts, _ in self._pieces([self._encode(prompt, 1)], 0):
            certain = settled(texts[0])
            held = max((n for stop in self._stops for n in range(len(stop)) if certain.endswith(stop[:n])), default=0)
            certain = certain[: len(certain) - held]
            if len(certain) > len(sent):
                yield certain[len(sent) :]
                sent = certain
        if len(texts[0]) > len(sent):
            yield texts[0][len(sent) :]

    def _encode(self, prompt: str, number: int) -> list[int]:
        # An empty prompt is how a document begins.
        ids = self._tokenizer.encode(encodable(prompt)) or [self._tokenizer.eos_token_id]
        positions = self._cfg.n_positions
        if len(ids) + self._max_new > positions:
            raise UserError(
                f"prompt {number} has {len(ids)} tokens, with --max_new_tokens {self._max_new} more than the model's "
                f"n_positions {positions}; shorten the one or lower the other"
            )
        return ids

    def _batch(self, prompts: list[list[int]], number: int) -> list[tuple[str, int, bool]]:
        if self._decoding.num_beams > 1:
            return self._search(prompts)
        for texts, drawn in self._pieces(prompts, number):
            last_texts, last_drawn = texts, drawn
        return [self._finished(text, ids) for text, ids in zip(last_texts, last_drawn, strict=True)]

    def _finished(self, text: str, ids: list[int]) -> tuple[str, int, bool]:
        """The cut text, how many tokens it took to know its end, and whether it ended by itself."""
        if len(text) == len(self._text(ids)):
            return text, len(ids), ids[-1:] == [self._tokenizer.eos_token_id]
        needed = next(n for n in range(1, len(ids) + 1) if self._cut(whole := self._text(ids[:n])) != whole)
        return text, needed, True

    def _pieces(self, prompts: list[list[int]], number: int) -> Iterator[tuple[list[str], list[list[int]]]]:
        """Texts, cut at their stops, and ids of all rows so far, again and again until all are over."""
        rules = self._rules
        state = set_up(self._cfg, prompts, None, self._max_new, self._seed, first_row=number)
        first = int(state.first)
        eos = jnp.int32(self._tokenizer.eos_token_id)
        state = start(self._cfg, self._modes, self._params, rules, state, jnp.int32(0), first, eos)
        until, last = first + 1, first + self._max_new
        while True:
            drawn = drawn_ids(state, rules)
            texts = [self._text(ids) for ids in drawn]
            cut = [self._cut(text) for text in texts]
            yield cut, drawn
            done = np.asarray(state.done_B) | np.array([len(a) < len(b) for a, b in zip(cut, texts, strict=True)])
            if done.all() or until == last:
                return
            until = min(until + _PIECE, last)
            state = state._replace(done_B=jnp.asarray(done))
            state = advance(self._cfg, self._modes, self._params, rules, state, jnp.int32(until), eos)

    def _search(self, prompts: list[list[int]]) -> list[tuple[str, int, bool]]:
        decoding, eos = self._decoding, self._tokenizer.eos_token_id
        found = beam_search(
            self._cfg,
            self._params,
            prompts,
            None,
            self._max_new,
            decoding.num_beams,
            decoding.length_penalty,
            decoding.early_stopping,
            self._modes,
            self._rules,
        )
        return [(self._text(ids), len(ids), ids[-1:] == [eos]) for ids in found[0]]

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode([id_ for id_ in ids if id_ != self._tokenizer.eos_token_id])

    def _cut(self, text: str) -> str:
        """Up to the first of the stop texts."""
        return text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))]
