"""The model in JAX; what was computed for the last prompt is kept for the next."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import BOT, Limits, describe, draw_seed
from jaxgpt.chat.jax_reader import JaxReader
from jaxgpt.data.dialogue import EncodedConversation
from jaxgpt.decode.beam import beam_search
from jaxgpt.decode.loop import State, advance, bucket, drawn_ids, empty_state, fill, row_keys
from jaxgpt.decode.rules import Modes, Rules, make_rules
from jaxgpt.model.block import LayerCache
from jaxgpt.train.models import load_model

_PIECE = 2  # tokens that are drawn before the host looks: enough to hide the way there and back, too few to notice


class _Kept(NamedTuple):
    """A state of one row, and ids and roles (2, T) of the tokens in its cache."""

    state: State
    tokens: np.ndarray


@partial(jax.jit, static_argnums=1)
def _grown(caches: tuple[LayerCache, ...], slots: int) -> tuple[LayerCache, ...]:
    """Caches with more slots."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, slots - x.shape[2]), (0, 0))), caches)


def _tokens(prompt: EncodedConversation) -> np.ndarray:
    return np.stack([prompt.ids, prompt.roles]).astype(np.int32)


class JaxEngine(JaxReader):
    """See engine.Engine. Keys and values stay for the longest beginning that two prompts have in common."""

    def __init__(self, folder: Path):
        dialogue_format = describe(folder).format  # which may refuse, so it comes before the weights
        super().__init__(load_model(folder), dialogue_format)
        self._lock = threading.Lock()
        self._kept: _Kept | None = None  # whoever uses it takes it away; without it a call begins anew

    def stream(self, prompt: EncodedConversation, decoding: Decoding, limits: Limits) -> Iterator[int]:
        modes, rules = self._rules(decoding, limits)
        if decoding.num_beams > 1:
            yield from self._search(prompt, decoding, limits, modes, rules)
            return
        state = self._begin(prompt, limits.max_new_tokens, draw_seed(decoding, limits))
        sent = len(prompt.ids)
        last, over = sent + limits.max_new_tokens, False
        try:
            while not over and sent < last:
                state = self._advance(modes, rules, state, min(sent + _PIECE, last))
                at, over = int(state.at), bool(state.done_B[0])
                new = np.asarray(state.ids_BS)[0, sent:at].tolist()
                sent = at
                yield from new
        finally:
            if not state.at.is_deleted():  # an interrupt may come while the state is being used up
                self._keep(state, np.stack([np.asarray(x)[0, : int(state.at)] for x in (state.ids_BS, state.roles_BS)]))

    def draw(self, prompt: EncodedConversation, n: int, decoding: Decoding, limits: Limits) -> list[list[int]]:
        modes, rules = self._rules(decoding, limits)
        seed = draw_seed(decoding, limits)
        one = self._begin(prompt, limits.max_new_tokens, seed)
        # Copies, also of the scalars: the loop uses its state up.
        rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=0) if leaf.ndim else leaf.copy(), one)
        self._keep(one, _tokens(prompt))
        rows = rows._replace(keys_B=row_keys(seed, n))
        rows = self._advance(modes, rules, rows, len(prompt.ids) + limits.max_new_tokens)
        return drawn_ids(rows, rules)

    def _rules(self, decoding: Decoding, limits: Limits) -> tuple[Modes, Rules]:
        return make_rules(
            self.cfg.vocab_size,
            **decoding.rules(),
            eos_id=self.tokenizer.eos_token_id,
            stops=[limits.stop_ids],
            banned_first=limits.not_first,
            role=BOT,
        )

    def _begin(self, prompt: EncodedConversation, max_new: int, seed: int) -> State:
        """One row with the prompt, in the cache but for its last token; what the cache holds already is not redone."""
        tokens = _tokens(prompt)
        length = tokens.shape[1]
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            kept = _Kept(empty_state(self.cfg, 1, self._slots(length + max_new), seed), np.zeros((2, 0), np.int32))
        state = kept.state
        if state.ids_BS.shape[1] < length + max_new:
            state = state._replace(caches=_grown(state.caches, self._slots(length + max_new)))
        shortest = min(kept.tokens.shape[1], length - 1)
        differs = (kept.tokens[:, :shortest] != tokens[:, :shortest]).any(0)
        common = int(differs.argmax()) if differs.any() else shortest
        slots = state.caches[0].k_BHSK.shape[2]
        ids_BS, roles_BS = np.pad(tokens, ((0, 0), (0, slots - length)))[:, None]
        state = state._replace(
            ids_BS=jnp.asarray(ids_BS),
            roles_BS=jnp.asarray(roles_BS),
            at=jnp.int32(length),
            first=jnp.int32(length),
            done_B=jnp.zeros(1, bool),
            keys_B=row_keys(seed, 1),
        )
        missing = length - 1 - common
        if missing:
            state = fill(self.cfg, self.params, state, jnp.int32(common), min(bucket(missing), slots))
        return state

    def _slots(self, wanted: int) -> int:
        """Room for a few more turns, so that not every one of them moves to a larger cache."""
        return bucket(min(2 * wanted, max(self.cfg.n_positions, wanted)))

    def _keep(self, state: State, tokens: np.ndarray) -> None:
        """tokens: all that the state knows; the last one is not in its cache."""
        with self._lock:
            self._kept = _Kept(state, tokens[:, :-1])

    def _advance(self, modes: Modes, rules: Rules, state: State, until: int) -> State:
        filler = jnp.int32(self.tokenizer.eos_token_id)
        return advance(self.cfg, modes, self.params, rules, state, jnp.int32(until), filler)

    def _search(
        self, prompt: EncodedConversation, decoding: Decoding, limits: Limits, modes: Modes, rules: Rules
    ) -> list[int]:
        found = beam_search(
            self.cfg,
            self.params,
            [prompt.ids.tolist()],
            [prompt.roles.tolist()],
            limits.max_new_tokens,
            decoding.num_beams,
            decoding.length_penalty,
            decoding.early_stopping,
            modes,
            rules,
        )
        return found[0][0]
