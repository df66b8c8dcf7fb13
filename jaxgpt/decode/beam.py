"""Beam search as one compiled loop: the beams of a prompt are rows that see its tokens and go on from one another.

The rules are those of transformers' `generate(do_sample=False, num_beams=…)`, each prompt taken alone: so many beams
are extended by all tokens, of twice as many candidates those that are over may be kept as found, and the best of the
others are the next beams. Stop sequences end a beam as eos does; transformers knows them as stopping criteria only.

Dimensions: B prompts, W beams, R = B * W rows of the model, C = 2 * W candidates, S slots, V vocabulary, N lengths.
Source: Freitag and Al-Onaizan 2017, "Beam Search Strategies for Neural Machine Translation", for the search;
Wu et al. 2016, "Google's Neural Machine Translation System", section 7, for the idea of dividing by a power of lengths.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.decode.loop import State, fill, set_up
from jaxgpt.decode.prepare import next_logits
from jaxgpt.decode.rules import Modes, Rules, constrain, ended
from jaxgpt.model.block import Chunk, LayerCache
from jaxgpt.model.gpt2 import extend
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig

_DIVISORS = 1e-30, 1e30  # a score over one of them is still a number


class _Found(NamedTuple):
    """Each prompt's best sequences that are over, best first; a score of -inf where there are none yet.

    ends_BW: the slot after the last token.
    """

    ids_BWS: jax.Array
    ends_BW: jax.Array
    scores_BW: jax.Array


class _Search(NamedTuple):
    """Beams while they are extended, best first. scores_BW: sums of log-probabilities, -inf for no beam."""

    ids_BWS: jax.Array
    roles_RS: jax.Array
    caches: tuple[LayerCache, ...]
    scores_BW: jax.Array
    at: jax.Array
    found: _Found
    over_B: jax.Array


def beam_search(
    cfg: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    roles: Sequence[Sequence[int]] | None,
    max_new: int,
    num_beams: int,
    length_penalty: float,
    early_stopping: bool,
    modes: Modes,
    rules: Rules,
) -> tuple[list[list[int]], list[float]]:
    """The best sequence that was found for each prompt, its drawn ids with those that ended it, and its score.

    A score is the sum of the log-probabilities, as penalties and bans leave them, over length ** length_penalty.
    early_stopping: a prompt is over with the num_beams-th found sequence; otherwise not before its best beam, scored
    at its length of now, is no better than the worst of them. Temperature, top-k, top-p and min-p don't count. The
    result has no tokens and the score -inf where bans leave none.
    cfg and params come from `for_decoding`; prompts, roles and max_new are those of `set_up`.
    """
    state = set_up(cfg, prompts, roles, max_new, seed=0)
    first = int(state.first)
    state = fill(cfg, params, state, jnp.int32(0), first)
    # By the host in double precision, as transformers does; as an array it is also nothing to compile anew for.
    lengths_N = np.arange(1, state.ids_BS.shape[1] - first + 1, dtype=np.float64)
    with np.errstate(over="ignore"):
        divisors_N = jnp.asarray((lengths_N**length_penalty).clip(*_DIVISORS), jnp.float32)
    until, stops_early = jnp.int32(first + max_new), jnp.bool_(early_stopping)
    found = _search(cfg, modes, num_beams, first, params, rules, state, divisors_N, until, stops_early)
    best_BS, ends_B = np.asarray(found.ids_BWS[:, 0]), np.asarray(found.ends_BW[:, 0])
    rows = [ids[first:end].tolist() for ids, end in zip(best_BS, ends_B, strict=True)]
    return rows, np.asarray(found.scores_BW[:, 0]).tolist()


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(
    cfg: ModelConfig,
    modes: Modes,
    num_beams: int,
    first: int,
    params: Params,
    rules: Rules,
    state: State,
    divisors_N: jax.Array,
    until: jax.Array,
    stops_early: jax.Array,
) -> _Found:
    """From prompts in a cache, with room from slot `first` on, to what is found before slot `until`."""
    n_prompts, n_slots = state.ids_BS.shape
    n_candidates = 2 * num_beams
    starts_R = jnp.repeat(state.starts_B, num_beams)

    def unfinished(search: _Search) -> jax.Array:
        return (search.at < until) & ~search.over_B.all()

    def candidates(search: _Search) -> tuple[tuple[LayerCache, ...], jax.Array, jax.Array, jax.Array]:
        """The caches with the last tokens in them, and scores, beams and new tokens (B, C), best first."""
        at = search.at
        ids_RS = search.ids_BWS.reshape(-1, n_slots)
        last_R1, role_R1 = (jax.lax.dynamic_slice_in_dim(x, at - 1, 1, axis=1) for x in (ids_RS, search.roles_RS))
        hidden_R1E, caches = extend(cfg, params, last_R1, role_R1, search.caches, Chunk(at - 1, starts_R))
        logs_RV = jax.nn.log_softmax(next_logits(cfg, params, hidden_R1E[:, 0]))
        logs_RV = constrain(modes, rules, logs_RV, ids_RS, starts_R, at, at == first)
        totals_BWV = search.scores_BW[:, :, None] + logs_RV.reshape(n_prompts, num_beams, -1)
        scores_BC, which_BC = jax.lax.top_k(totals_BWV.reshape(n_prompts, -1), n_candidates)
        return caches, scores_BC, which_BC // cfg.vocab_size, which_BC % cfg.vocab_size

    def step(search: _Search) -> _Search:
        at = search.at
        caches, scores_BC, beams_BC, new_BC = candidates(search)
        ids_BCS = _take(search.ids_BWS, beams_BC).at[:, :, at].set(new_BC)
        over_BC = ended(rules, new_BC.reshape(-1), ids_BCS.reshape(-1, n_slots), at, at - first + 1)
        over_BC = over_BC.reshape(scores_BC.shape) | (at + 1 == until)
        divisor = divisors_N[at - first]

        # A candidate that is over but not among the best num_beams is lost.
        counts_BC = over_BC & (jnp.arange(n_candidates) < num_beams) & jnp.isfinite(scores_BC)
        new = _Found(ids_BCS, jnp.full_like(new_BC, at + 1), jnp.where(counts_BC, scores_BC / divisor, -jnp.inf))
        found = _best(search.found, new)
        found = jax.tree.map(
            lambda old, new: jnp.where(search.over_B.reshape(-1, *[1] * (old.ndim - 1)), old, new), search.found, found
        )

        scores_BW, kept_BW = jax.lax.top_k(jnp.where(over_BC, -jnp.inf, scores_BC), num_beams)
        rows_R = (_take(beams_BC, kept_BW) + num_beams * jnp.arange(n_prompts)[:, None]).reshape(-1)
        worst_B = found.scores_BW[:, -1]
        no_better_B = ~(scores_BW[:, 0] / divisor > worst_B)
        return _Search(
            ids_BWS=_take(ids_BCS, kept_BW),
            roles_RS=search.roles_RS.at[:, at].set(rules.role),
            # The slots before `first` are the prompt's, the same for all of its beams.
            caches=jax.tree.map(lambda x: x.at[:, :, first:].set(x[rows_R, :, first:]), caches),
            scores_BW=scores_BW,
            at=at + 1,
            found=found,
            over_B=search.over_B | no_better_B | (jnp.isfinite(worst_B) & stops_early),
        )

    nothing_BW = jnp.full((n_prompts, num_beams), -jnp.inf)
    ids_BWS = jnp.repeat(state.ids_BS[:, None], num_beams, axis=1)
    search = _Search(
        ids_BWS=ids_BWS,
        roles_RS=jnp.repeat(state.roles_BS, num_beams, axis=0),
        caches=jax.tree.map(lambda x: jnp.repeat(x, num_beams, axis=0), state.caches),
        scores_BW=nothing_BW.at[:, 0].set(0),  # they are all the same prompt, so only one of them counts
        at=jnp.int32(first),
        found=_Found(ids_BWS, jnp.full((n_prompts, num_beams), first, jnp.int32), nothing_BW),
        over_B=jnp.zeros(n_prompts, bool),
    )
    return jax.lax.while_loop(unfinished, step, search).found


def _take(values: jax.Array, which: jax.Array) -> jax.Array:
    """values (B, n, …) at which (B, m), row by row -> (B, m, …)."""
    return jnp.take_along_axis(values, which.reshape(*which.shape, *[1] * (values.ndim - 2)), axis=1)


def _best(found: _Found, new: _Found) -> _Found:
    """The best of both, as many as were found before."""
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), found, new)
    _, which_BW = jax.lax.top_k(both.scores_BW, found.scores_BW.shape[1])
    return jax.tree.map(lambda values: _take(values, which_BW), both)
