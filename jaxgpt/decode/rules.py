"""How the next token is chosen from logits: penalties, truncation and the draw.

The order is transformers': repetition, n-grams, bans, temperature, top-k, top-p, min-p.
Dimensions: B rows, S slots, V vocabulary, N stop sequences, K length of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Modes:
    """What a compiled loop does at all.

    greedy: take the likeliest token; truncates: top-k, top-p or min-p are in use; penalises: so is the repetition
    penalty; no_repeat_ngram_size: n-grams of this size occur once, 0 for any number of times.
    """

    greedy: bool = False
    truncates: bool = False
    penalises: bool = False
    no_repeat_ngram_size: int = 0


class Rules(NamedTuple):
    """Values that a compiled loop takes as arrays, so that other values don't compile anew.

    eos_id: ends a row when it is drawn, -1 for none. stops_NK: sequences of drawn tokens that end a row, -1 on the left
    where one is shorter than K. banned_V: never drawn; banned_first_V: not as the first drawn token. role: of what is
    drawn.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    eos_id: jax.Array
    stops_NK: jax.Array
    banned_V: jax.Array
    banned_first_V: jax.Array
    role: jax.Array


def make_rules(
    vocab_size: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    eos_id: int | None = None,
    stops: Sequence[Sequence[int]] = (),
    banned: Sequence[int] = (),
    banned_first: Sequence[int] = (),
    role: int = 0,
) -> tuple[Modes, Rules]:
    """temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 leave all tokens in."""
    longest = max((len(stop) for stop in stops), default=1)
    stops_NK = np.full((len(stops), longest), -1, np.int32)
    for row, stop in zip(stops_NK, stops, strict=True):
        row[longest - len(stop) :] = stop
    masks = np.zeros((2, vocab_size), bool)
    masks[0, list(banned)] = masks[1, list(banned_first)] = True
    modes = Modes(
        greedy=temperature == 0,
        truncates=temperature > 0 and (top_k > 0 or top_p < 1 or min_p > 0),
        penalises=repetition_penalty != 1,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    rules = Rules(
        temperature=jnp.float32(temperature or 1.0),
        top_k=jnp.int32(min(top_k, vocab_size) or vocab_size),
        top_p=jnp.float32(top_p),
        min_p=jnp.float32(min_p),
        repetition_penalty=jnp.float32(repetition_penalty),
        eos_id=jnp.int32(-1 if eos_id is None else eos_id),
        stops_NK=jnp.asarray(stops_NK),
        banned_V=jnp.asarray(masks[0]),
        banned_first_V=jnp.asarray(masks[1]),
        role=jnp.int32(role),
    )
    return modes, rules


def constrain(
    modes: Modes,
    rules: Rules,
    logits_BV: jax.Array,
    ids_BS: jax.Array,
    starts_B: jax.Array,
    at: jax.Array,
    first: jax.Array,
) -> jax.Array:
    """Logits after penalties and bans.

    Row b's tokens so far are ids_BS[b, starts_B[b]:at]; `first`: none of them was drawn.
    """
    slots_S = jnp.arange(ids_BS.shape[1])
    if modes.penalises:
        known_BS = (slots_S >= starts_B[:, None]) & (slots_S < at)
        seen_BV = _mark(logits_BV, ids_BS, known_BS)
        penalised = jnp.where(logits_BV < 0, logits_BV * rules.repetition_penalty, logits_BV / rules.repetition_penalty)
        logits_BV = jnp.where(seen_BV, penalised, logits_BV)
    size = modes.no_repeat_ngram_size
    if 0 < size <= ids_BS.shape[1]:  # longer ones can't occur
        # An n-gram that begins at a slot repeats if its first tokens are the row's last ones; it must end before `at`.
        repeats_BS = (slots_S >= starts_B[:, None]) & (slots_S + size - 1 < at)
        for offset in range(size - 1):
            last_B = jax.lax.dynamic_index_in_dim(ids_BS, at - (size - 1) + offset, 1, keepdims=False)
            repeats_BS &= jnp.roll(ids_BS, -offset, axis=1) == last_B[:, None]
        logits_BV = jnp.where(_mark(logits_BV, jnp.roll(ids_BS, 1 - size, axis=1), repeats_BS), -jnp.inf, logits_BV)
    return jnp.where(rules.banned_V | (rules.banned_first_V & first), -jnp.inf, logits_BV)


def _mark(like_BV: jax.Array, ids_BS: jax.Array, which_BS: jax.Array) -> jax.Array:
    """(B, V) True at the ids of the chosen slots."""
    rows_B1 = jnp.arange(ids_BS.shape[0])[:, None]
    return jnp.zeros(like_BV.shape, bool).at[rows_B1, ids_BS].max(which_BS)


def _largest_passing(values_BV: jax.Array, measure: jax.Array, least: jax.Array) -> jax.Array:
    """The largest value t of each row such that the `measure` of all its values >= t adds up to `least` -> (B, 1).

    values_BV >= 0, so that their bits are ordered as they are; the search goes over the bits, 31 sums without a sort.
    """
    bits_BV = jax.lax.bitcast_convert_type(values_BV, jnp.int32)

    def set_bit(step: jax.Array, found_B1: jax.Array) -> jax.Array:
        trial_B1 = found_B1 | (1 << (30 - step))
        enough = jnp.where(bits_BV >= trial_B1, measure, 0).sum(-1, keepdims=True) >= least
        return jnp.where(enough, trial_B1, found_B1)

    zeros_B1 = jnp.zeros((values_BV.shape[0], 1), jnp.int32)
    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, set_bit, zeros_B1), jnp.float32)


def truncate(rules: Rules, logits_BV: jax.Array) -> jax.Array:
    """Logits with -inf for what top-k, then top-p, then min-p leave out. Tokens that tie with the last one stay."""
    likeliest_B1 = logits_BV.max(-1, keepdims=True)
    exps_BV = jnp.exp(logits_BV - likeliest_B1)  # of the likeliest it is 1
    kept_BV = exps_BV >= _largest_passing(exps_BV, jnp.float32(1), rules.top_k.astype(jnp.float32))
    exps_BV = jnp.where(kept_BV, exps_BV, 0)
    wanted_B1 = rules.top_p * exps_BV.sum(-1, keepdims=True)
    # At 1 rounding of the sums would leave out what is less than their last bit.
    kept_BV &= (exps_BV >= _largest_passing(exps_BV, exps_BV, wanted_B1)) | (rules.top_p >= 1)
    kept_BV &= exps_BV >= rules.min_p
    return jnp.where(kept_BV | (logits_BV == likeliest_B1), logits_BV, -jnp.inf)


def choose(modes: Modes, rules: Rules, logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """One token per row -> (B,) int32; keys_B are used up."""
    if modes.greedy:
        return logits_BV.argmax(-1).astype(jnp.int32)
    logits_BV /= rules.temperature
    if modes.truncates:
        logits_BV = truncate(rules, logits_BV)
    return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)


def ended(rules: Rules, new_B: jax.Array, ids_BS: jax.Array, at: jax.Array, drawn: jax.Array) -> jax.Array:
    """Whether each row is over with the token that was just put into slot `at`, the `drawn`-th -> (B,) bool."""
    over_B = new_B == rules.eos_id
    n_stops, longest = rules.stops_NK.shape
    if not n_stops:
        return over_B
    slots_K = at - longest + 1 + jnp.arange(longest)
    tails_BK = ids_BS[:, jnp.maximum(slots_K, 0)]
    equal_BNK = (tails_BK[:, None] == rules.stops_NK) | (rules.stops_NK < 0)
    lengths_N = (rules.stops_NK >= 0).sum(-1)
    return over_B | (equal_BNK.all(-1) & (lengths_N <= drawn)).any(-1)
