"""Decoding as one compiled loop over a cache of fixed size.

All rows of a batch stand in the same slots: shorter prompts begin later (`starts_B`), so that each step writes one slot
for all. The last known token is not in the cache yet: a step feeds it, draws the next and puts that behind it. So a
state can be cut back to any length and go on, and text can leave while it is drawn, a few steps a call.

Dimensions: B rows, S slots, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.decode.prepare import next_logits
from jaxgpt.decode.rules import Modes, Rules, choose, constrain, ended
from jaxgpt.model.block import Chunk, LayerCache
from jaxgpt.model.gpt2 import empty_caches, extend
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig

# Lengths are rounded up, so that few shapes are compiled: to multiples of this, of more for longer ones.
_SMALLEST = 16


class State(NamedTuple):
    """A batch while it is decoded.

    ids_BS, roles_BS: the tokens, in slots from starts_B to `at`. caches: hold the slots before at - 1. first: the slot
    of the first drawn token. done_B: rows that are over. keys_B: one per row; the n-th draw folds n in.
    """

    ids_BS: jax.Array
    roles_BS: jax.Array
    caches: tuple[LayerCache, ...]
    starts_B: jax.Array
    at: jax.Array
    first: jax.Array
    done_B: jax.Array
    keys_B: jax.Array


def bucket(length: int) -> int:
    """The length that is compiled for `length` tokens: less than a quarter more, or the next multiple of 16."""
    step = max(_SMALLEST, 1 << max((length - 1).bit_length() - 3, 0))
    return -(-length // step) * step


def set_up(
    cfg: ModelConfig,
    prompts: Sequence[Sequence[int]],
    roles: Sequence[Sequence[int]] | None,
    max_new: int,
    seed: int,
    first_row: int = 0,
) -> State:
    """A batch of prompts (each of at least one token) with room for `max_new` more, nothing in the cache yet.

    The prompts end in slot state.first - 1; `fill` or `start` over that many slots comes next.
    cfg and params come from `for_decoding`. Row b draws from the seed's key number first_row + b,
    whatever else is in the batch.
    """
    lengths = np.array([len(prompt) for prompt in prompts])
    assert lengths.min() > 0, lengths
    assert lengths.max() + max_new <= cfg.n_positions, (lengths, max_new, cfg.n_positions)
    width = bucket(int(lengths.max()))
    state = empty_state(cfg, len(prompts), bucket(width + max_new), seed, first_row)
    ids_BS, roles_BS = (np.zeros(state.ids_BS.shape, np.int32) for _ in range(2))
    for row, prompt in enumerate(prompts):
        ids_BS[row, width - len(prompt) : width] = prompt
        if roles is not None:
            roles_BS[row, width - len(prompt) : width] = roles[row]
    return state._replace(
        ids_BS=jnp.asarray(ids_BS),
        roles_BS=jnp.asarray(roles_BS),
        starts_B=jnp.asarray(width - lengths, jnp.int32),
        at=jnp.int32(width),
        first=jnp.int32(width),
    )


def empty_state(cfg: ModelConfig, rows: int, slots: int, seed: int, first_row: int = 0) -> State:
    """No token yet."""
    return State(
        ids_BS=jnp.zeros((rows, slots), jnp.int32),
        roles_BS=jnp.zeros((rows, slots), jnp.int32),
        caches=empty_caches(cfg, rows, slots),
        starts_B=jnp.zeros(rows, jnp.int32),
        at=jnp.int32(0),
        first=jnp.int32(0),
        done_B=jnp.zeros(rows, bool),
        keys_B=row_keys(seed, rows, first_row),
    )


def row_keys(seed: int, rows: int, first_row: int = 0) -> jax.Array:
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(first_row + jnp.arange(rows))


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=2)
def fill(cfg: ModelConfig, params: Params, state: State, at: jax.Array, length: int) -> State:
    """The state with its slots from `at` on, `length` of them, computed into the cache.

    Slots beyond the known tokens may be among them: what they hold is seen by nobody and is overwritten.
    """
    return _fill(cfg, params, state, at, length)[0]


def _fill(cfg: ModelConfig, params: Params, state: State, at: jax.Array, length: int) -> tuple[State, jax.Array]:
    """`fill`, and the hidden states (B, E) of the last known tokens, where they are among those slots."""
    at = jnp.minimum(at, state.ids_BS.shape[1] - length)
    ids, roles = (jax.lax.dynamic_slice_in_dim(x, at, length, axis=1) for x in (state.ids_BS, state.roles_BS))
    hidden_BTE, caches = extend(cfg, params, ids, roles, state.caches, Chunk(at, state.starts_B))
    last_BE = jax.lax.dynamic_index_in_dim(hidden_BTE, state.at - 1 - at, axis=1, keepdims=False)
    return state._replace(caches=caches), last_BE


@partial(jax.jit, static_argnums=(0, 1, 6), donate_argnums=4)
def start(
    cfg: ModelConfig,
    modes: Modes,
    params: Params,
    rules: Rules,
    state: State,
    at: jax.Array,
    length: int,
    filler: jax.Array,
) -> State:
    """`fill` and the first draw in one pass; the slots must reach the last known token."""
    state, hidden_BE = _fill(cfg, params, state, at, length)
    return _draw(cfg, modes, params, rules, state, hidden_BE, filler)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def advance(
    cfg: ModelConfig, modes: Modes, params: Params, rules: Rules, state: State, until: jax.Array, filler: jax.Array
) -> State:
    """Draws tokens until slot `until`, or until every row is over; rows that are get `filler`."""

    def unfinished(state: State) -> jax.Array:
        return (state.at < until) & ~state.done_B.all()

    def step(state: State) -> State:
        state, hidden_BE = _fill(cfg, params, state, state.at - 1, 1)
        return _draw(cfg, modes, params, rules, state, hidden_BE, filler)

    return jax.lax.while_loop(unfinished, step, state)


def _draw(
    cfg: ModelConfig,
    modes: Modes,
    params: Params,
    rules: Rules,
    state: State,
    hidden_BE: jax.Array,
    filler: jax.Array,
) -> State:
    """One more token for each row, from the hidden states of the last ones."""
    at, drawn = state.at, state.at - state.first
    logits_BV = next_logits(cfg, params, hidden_BE)
    logits_BV = constrain(modes, rules, logits_BV, state.ids_BS, state.starts_B, at, drawn == 0)
    keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys_B, drawn)
    new_B = jnp.where(state.done_B, filler, choose(modes, rules, logits_BV, keys_B))
    ids_BS = jax.lax.dynamic_update_slice_in_dim(state.ids_BS, new_B[:, None], at, axis=1)
    roles_B1 = jnp.broadcast_to(rules.role, (new_B.shape[0], 1))
    return state._replace(
        ids_BS=ids_BS,
        roles_BS=jax.lax.dynamic_update_slice_in_dim(state.roles_BS, roles_B1, at, axis=1),
        at=at + 1,
        done_B=state.done_B | ended(rules, new_B, ids_BS, at, drawn + 1),
    )


def generate(
    cfg: ModelConfig, modes: Modes, params: Params, rules: Rules, state: State, n_new: int, filler: int
) -> State:
    """From `set_up` to at most `n_new` tokens of each row."""
    first = int(state.first)
    state = start(cfg, modes, params, rules, state, jnp.int32(0), first, jnp.int32(filler))
    return advance(cfg, modes, params, rules, state, jnp.int32(first + n_new), jnp.int32(filler))


def drawn_ids(state: State, rules: Rules) -> list[list[int]]:
    """Each row's drawn tokens, up to and with those that ended it."""
    first, at = int(state.first), int(state.at)
    rows = np.asarray(state.ids_BS)[:, first:at]
    stops = [[int(token) for token in stop if token >= 0] for stop in np.asarray(rules.stops_NK)]
    return [_until_over(row.tolist(), int(rules.eos_id), stops) for row in rows]


def _until_over(row: list[int], eos_id: int, stops: list[list[int]]) -> list[int]:
    for end in range(1, len(row) + 1):
        if row[end - 1] == eos_id or any(len(stop) <= end and row[end - len(stop) : end] == stop for stop in stops):
            return row[:end]
    return row
