"""Causal attention in blocks of queries, with its backward pass written by hand.

Keys after a block's last query are left out, and nothing of T * T elements is kept: the backward pass computes the
scores again, from the sums that the forward pass leaves. Scores have the dtype of the inputs, their softmax is float32.
Dimensions: B batch, H heads, T position, K head size; Q queries of a block, S keys up to its last one.
Source: Dao et al. 2022, "FlashAttention", section 3, for the backward pass; Milakov and Gimelshein 2018 for the sums.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

_FEWEST, _MOST = 128, 256  # queries of a block: larger ones skip less, smaller ones are many small products


class _Block(NamedTuple):
    """Of queries `begin` to `end`, which see keys up to `end`."""

    begin: int
    end: int

    def queries(self, x_BHTK: jax.Array) -> jax.Array:
        return x_BHTK[:, :, self.begin : self.end]

    def keys(self, x_BHTK: jax.Array) -> jax.Array:
        return x_BHTK[:, :, : self.end]


def _blocks(n_tokens: int) -> Iterator[_Block]:
    n_queries = min(max(n_tokens // 4, _FEWEST), _MOST)
    for begin in range(0, n_tokens, n_queries):
        yield _Block(begin, min(begin + n_queries, n_tokens))


@jax.custom_vjp
def attend_in_blocks(
    q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array, segments_BT: jax.Array | None
) -> jax.Array:
    """Softmax of q k' over the visible keys, times v -> (B, H, T, K). q comes scaled; segments_BT as in `attend`.

    Where nobody asks for gradients, a CPU takes a head at a time.
    """
    inputs = (q_BHTK, k_BHTK, v_BHTK, segments_BT)
    out_BHTK: jax.Array = jax.lax.platform_dependent(*inputs, cpu=_head_by_head, default=lambda *x: _forward(*x)[0])
    return out_BHTK


def _scores(block: _Block, q_BHTK: jax.Array, k_BHTK: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    scores_BHQS = jnp.einsum("BHQK,BHSK->BHQS", block.queries(q_BHTK), block.keys(k_BHTK))
    visible = (jnp.arange(block.begin, block.end)[:, None] >= jnp.arange(block.end))[None, None]
    if segments_BT is not None:
        same_BQS = segments_BT[:, block.begin : block.end, None] == segments_BT[:, None, : block.end]
        visible &= same_BQS[:, None]
    return jnp.where(visible, scores_BHQS, jnp.finfo(scores_BHQS.dtype).min).astype(jnp.float32)


Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]


def _forward(
    q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array, segments_BT: jax.Array | None
) -> tuple[jax.Array, Residuals]:
    dtype = v_BHTK.dtype
    # A column of ones makes the product with the values sum the exponentials as well, as they are rounded for it.
    ones_BHT1 = jnp.ones((*v_BHTK.shape[:-1], 1), dtype)
    v1_BHTK = jnp.concatenate([v_BHTK, ones_BHT1], axis=-1)
    outs, logs = [], []
    for block in _blocks(q_BHTK.shape[2]):
        scores_BHQS = _scores(block, q_BHTK, k_BHTK, segments_BT)
        max_BHQ1 = scores_BHQS.max(-1, keepdims=True)
        exps_BHQS = jnp.exp(scores_BHQS - max_BHQ1).astype(dtype)
        out_BHQK = jnp.einsum("BHQS,BHSK->BHQK", exps_BHQS, block.keys(v1_BHTK), preferred_element_type=jnp.float32)
        sums_BHQ1 = out_BHQK[..., -1:]
        outs.append((out_BHQK[..., :-1] / sums_BHQ1).astype(dtype))
        logs.append(max_BHQ1 + jnp.log(sums_BHQ1))
    out_BHTK, log_sums_BHT1 = jnp.concatenate(outs, axis=2), jnp.concatenate(logs, axis=2)
    return out_BHTK, (q_BHTK, k_BHTK, v_BHTK, segments_BT, out_BHTK, log_sums_BHT1)


def _backward(residuals: Residuals, outer_BHTK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """With P the probabilities: dV = P' dO, dP = dO V', dS = P * (dP - rowsum(dO * O)), dQ = dS K, dK = dS' Q."""
    q_BHTK, k_BHTK, v_BHTK, segments_BT, out_BHTK, log_sums_BHT1 = residuals
    dtype, n_tokens = v_BHTK.dtype, q_BHTK.shape[2]
    float32 = jnp.float32
    mean_BHT1 = (outer_BHTK.astype(float32) * out_BHTK.astype(float32)).sum(-1, keepdims=True)
    grads_q = []
    grad_k_BHTK, grad_v_BHTK = (jnp.zeros(x_BHTK.shape, float32) for x_BHTK in (k_BHTK, v_BHTK))
    for block in _blocks(n_tokens):
        scores_BHQS = _scores(block, q_BHTK, k_BHTK, segments_BT)
        probs_BHQS = jnp.exp(scores_BHQS - block.queries(log_sums_BHT1)).astype(dtype)
        outer_BHQK = block.queries(outer_BHTK)
        grad_probs_BHQS = jnp.einsum("BHQK,BHSK->BHQS", outer_BHQK, block.keys(v_BHTK), preferred_element_type=float32)
        grad_scores_BHQS = (probs_BHQS * (grad_probs_BHQS - block.queries(mean_BHT1))).astype(dtype)
        grads_q.append(
            jnp.einsum("BHQS,BHSK->BHQK", grad_scores_BHQS, block.keys(k_BHTK), preferred_element_type=float32)
        )
        later = ((0, 0), (0, 0), (0, n_tokens - block.end), (0, 0))
        grad_k_BHTK += jnp.pad(_to_keys(grad_scores_BHQS, block.queries(q_BHTK)), later)
        grad_v_BHTK += jnp.pad(_to_keys(probs_BHQS, outer_BHQK), later)
    grad_q_BHTK = jnp.concatenate(grads_q, axis=2)
    return grad_q_BHTK.astype(dtype), grad_k_BHTK.astype(dtype), grad_v_BHTK.astype(dtype), None


def _to_keys(weights_BHQS: jax.Array, x_BHQK: jax.Array) -> jax.Array:
    return jnp.einsum("BHQS,BHQK->BHSK", weights_BHQS, x_BHQK, preferred_element_type=jnp.float32)


attend_in_blocks.defvjp(_forward, _backward)


_FEW_QUERIES = 128  # of a piece of one head, whose scores stay in a processor's cache


def _head_by_head(q_BHTK: jax.Array, k_BHTK: jax.Array, v_BHTK: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    n_rows, n_head, n_tokens, _ = q_BHTK.shape

    def one_head(inputs: tuple[jax.Array, ...]) -> jax.Array:
        q_TK, k_TK, v_TK, row = inputs
        segments_T = None if segments_BT is None else jax.lax.dynamic_index_in_dim(segments_BT, row, 0, keepdims=False)
        pieces = []
        for begin in range(0, n_tokens, _FEW_QUERIES):
            end = min(begin + _FEW_QUERIES, n_tokens)
            scores_QS = jnp.einsum("QK,SK->QS", q_TK[begin:end], k_TK[:end], preferred_element_type=jnp.float32)
            visible_QS = jnp.arange(begin, end)[:, None] >= jnp.arange(end)
            if segments_T is not None:
                visible_QS &= segments_T[begin:end, None] == segments_T[:end]
            scores_QS = jnp.where(visible_QS, scores_QS, jnp.finfo(jnp.float32).min)
            # Without the barrier XLA computes the exponentials twice.
            exps_QS = jax.lax.optimization_barrier(jnp.exp(scores_QS - scores_QS.max(-1, keepdims=True)))
            out_QK = jnp.einsum("QS,SK->QK", exps_QS.astype(v_TK.dtype), v_TK[:end], preferred_element_type=jnp.float32)
            pieces.append(out_QK / exps_QS.sum(-1, keepdims=True))
        return jnp.concatenate(pieces).astype(v_TK.dtype)

    heads = (x.reshape(-1, *x.shape[2:]) for x in (q_BHTK, k_BHTK, v_BHTK))
    out = jax.lax.map(one_head, (*heads, jnp.repeat(jnp.arange(n_rows), n_head)))
    return out.reshape(*q_BHTK.shape[:-1], -1)
