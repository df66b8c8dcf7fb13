"""Causal self-attention over packed sequences, and over a cache of keys and values.

Dimensions: B batch, T query position, S key position or slot of the cache, H heads, K head size.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxgpt.model.dropout import dropout

_QUERIES = 128  # of a piece, where attention is computed in pieces


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    segments_BT: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
    scale: jax.Array | float | None = None,
) -> jax.Array:
    """Each position's average of the values it may see: those at or before it, in its own segment -> (B, T, H, K).

    Scores and softmax are float32 whatever the inputs are; the result has the dtype of `v_BSHK`.
    segments_BT: int, equal numbers may see each other; None means one segment per row.
    scale: of the scores; None means 1 / sqrt(K).
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    if dropout_rate and dropout_keys_B is not None:
        return _all_at_once(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale, dropout_rate, dropout_keys_B)
    return _attend(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale)


@jax.custom_vjp
def _attend(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None,
    scale: jax.Array | float,
) -> jax.Array:
    """`attend` without dropout. Where nobody asks for gradients, a CPU takes a head at a time."""
    return cast(
        jax.Array,
        jax.lax.platform_dependent(q_BTHK, k_BTHK, v_BTHK, segments_BT, scale, cpu=_head_by_head, default=_all_at_once),
    )


def _forward(*inputs: Any) -> tuple[jax.Array, Any]:
    q_BTHK, k_BTHK, v_BTHK, segments_BT, scale = inputs

    def attended(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> jax.Array:
        return _all_at_once(q_BTHK, k_BTHK, v_BTHK, segments_BT, scale)

    return jax.vjp(attended, q_BTHK, k_BTHK, v_BTHK)


def _backward(pull_back: Any, outer_BTHK: jax.Array) -> tuple[Any, ...]:
    return *pull_back(outer_BTHK), None, None


_attend.defvjp(_forward, _backward)


def _all_at_once(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    segments_BT: jax.Array | None,
    scale: jax.Array | float,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
) -> jax.Array:
    scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32)
    scores_BHTS *= scale
    n_query, n_key = scores_BHTS.shape[-2:]
    visible = jnp.tril(jnp.ones((n_query, n_key), bool))[None, None]
    if segments_BT is not None:
        visible &= (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    # A position always sees itself, so no row of the softmax is empty.
    scores_BHTS = jnp.where(visible, scores_BHTS, jnp.finfo(jnp.float32).min)
    probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BSHK.dtype)
    probs_BHTS = dropout(probs_BHTS, dropout_rate, dropout_keys_B)
    return jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)


def _head_by_head(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    segments_BT: jax.Array | None,
    scale: jax.Array | float,
) -> jax.Array:
    """The same in pieces whose scores stay in a processor's cache; keys after a piece's last query are left out."""
    n_rows, n_tokens, n_head, _ = q_BTHK.shape

    def one_head(number: jax.Array) -> jax.Array:
        row, head = number // n_head, number % n_head
        at = jax.lax.dynamic_index_in_dim
        q_TK, k_TK, v_TK = (at(at(x, row, 0, False), head, 1, False) for x in (q_BTHK, k_BTHK, v_BTHK))
        segments_T = None if segments_BT is None else at(segments_BT, row, 0, False)
        pieces = []
        for begin in range(0, n_tokens, _QUERIES):
            end = min(begin + _QUERIES, n_tokens)
            scores_TS = jnp.einsum("TK,SK->TS", q_TK[begin:end], k_TK[:end], preferred_element_type=jnp.float32)
            visible_TS = jnp.arange(begin, end)[:, None] >= jnp.arange(end)
            if segments_T is not None:
                visible_TS &= segments_T[begin:end, None] == segments_T[:end]
            scores_TS = jnp.where(visible_TS, scores_TS * scale, jnp.finfo(jnp.float32).min)
            # Without the barrier XLA computes the exponentials twice.
            exps_TS = jax.lax.optimization_barrier(jnp.exp(scores_TS - scores_TS.max(-1, keepdims=True)))
            out_TK = jnp.einsum("TS,SK->TK", exps_TS.astype(v_TK.dtype), v_TK[:end], preferred_element_type=jnp.float32)
            pieces.append(out_TK / exps_TS.sum(-1, keepdims=True))
        return jnp.concatenate(pieces).astype(v_TK.dtype)

    heads = jax.lax.map(one_head, jnp.arange(n_rows * n_head))
    return jnp.moveaxis(heads.reshape(n_rows, n_head, n_tokens, -1), 1, 2)


def attend_cached(
    q_BTHK: jax.Array,
    k_BHSK: jax.Array,
    v_BHSK: jax.Array,
    at: jax.Array,
    starts_B: jax.Array,
    scale: jax.Array | float,
) -> jax.Array:
    """The same for queries that stand in the slots `at`, `at` + 1, … of a cache -> (B, T, H, K).

    A query sees the slots of its row from starts_B up to its own; what other slots hold does not matter.
    """
    # Heads before positions and the division last: XLA's CPU backend otherwise moves arrays of T * S about.
    q_BHTK = jnp.swapaxes(q_BTHK * scale, 1, 2)
    scores_BHTS = jnp.einsum("BHTK,BHSK->BHTS", q_BHTK, k_BHSK, preferred_element_type=jnp.float32)
    slots_S = jnp.arange(k_BHSK.shape[2])
    own_T = at + jnp.arange(q_BTHK.shape[1])
    visible_BTS = (slots_S <= own_T[:, None]) & (slots_S >= starts_B[:, None, None])
    # Queries of padding before starts_B see nothing: their row is uniform, finite, and read by nobody.
    scores_BHTS = jnp.where(visible_BTS[:, None], scores_BHTS, jnp.finfo(jnp.float32).min)
    exps_BHTS = jnp.exp(scores_BHTS - scores_BHTS.max(-1, keepdims=True))
    out_BHTK = jnp.einsum("BHTS,BHSK->BHTK", exps_BHTS.astype(v_BHSK.dtype), v_BHSK, preferred_element_type=jnp.float32)
    out_BHTK /= exps_BHTS.sum(-1, keepdims=True)
    return jnp.swapaxes(out_BHTK, 1, 2).astype(v_BHSK.dtype)
