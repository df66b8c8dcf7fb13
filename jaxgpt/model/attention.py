"""Causal self-attention over packed sequences, and over a cache of keys and values.

Dimensions: B batch, T query position, S key position or slot of the cache, H heads, K head size.
"""

import jax
import jax.numpy as jnp

from jaxgpt.model.blocked_attention import attend_in_blocks
from jaxgpt.model.dropout import dropout
from jaxgpt.model.kernels import LANES, attend_by_cudnn, attend_by_splash
from jaxgpt.model_config import Attention


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    segments_BT: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
    scale: jax.Array | float | None = None,
    kernel: Attention = "auto",
) -> jax.Array:
    """Each position's average of the values it may see: those at or before it, in its own segment -> (B, T, H, K).

    The softmax is float32 whatever the inputs are; the result has the dtype of `v_BSHK`.
    segments_BT: int, equal numbers may see each other; None means one segment per row.
    scale: of the scores; None means 1 / sqrt(K). kernel: as model.attention; auto is blocks, where no device is known.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    scale = q_BTHK.shape[-1] ** -0.5 if scale is None else scale
    if dropout_rate and dropout_keys_B is not None:
        return _all_at_once(q_BTHK, k_BSHK, v_BSHK, segments_BT, scale, dropout_rate, dropout_keys_B)
    # In few bits this rounds q once more, but for GPT-2's heads of 64 the factor is a power of two.
    scaled_BTHK = q_BTHK * jnp.asarray(scale, q_BTHK.dtype)
    if kernel == "cudnn":
        return attend_by_cudnn(scaled_BTHK, k_BSHK, v_BSHK, segments_BT)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (scaled_BTHK, k_BSHK, v_BSHK))
    by_splash = kernel == "splash" and q_BTHK.shape[1] % LANES == 0
    out_BHTK = attend_by_splash(q, k, v, segments_BT) if by_splash else attend_in_blocks(q, k, v, segments_BT)
    return jnp.swapaxes(out_BHTK, 1, 2)


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
