"""Causal self-attention over packed sequences.

Dimensions: B batch, T query position, S key position, H heads, K head size.
"""

import jax
import jax.numpy as jnp

from jaxgpt.model.dropout import dropout


def attend(
    q_BTHK: jax.Array,
    k_BSHK: jax.Array,
    v_BSHK: jax.Array,
    segments_BT: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_keys_B: jax.Array | None = None,
) -> jax.Array:
    """Each position's average of the values it may see: those at or before it, in its own segment -> (B, T, H, K).

    Scores and softmax are float32 whatever the inputs are; the result has the dtype of `v_BSHK`.
    segments_BT: int, equal numbers may see each other; None means one segment per row.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    head_size = q_BTHK.shape[-1]
    scores_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK, preferred_element_type=jnp.float32)
    scores_BHTS *= head_size**-0.5
    n_query, n_key = scores_BHTS.shape[-2:]
    visible = jnp.tril(jnp.ones((n_query, n_key), bool))[None, None]
    if segments_BT is not None:
        visible &= (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    # A position always sees itself, so no row of the softmax is empty.
    scores_BHTS = jnp.where(visible, scores_BHTS, jnp.finfo(jnp.float32).min)
    probs_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BSHK.dtype)
    probs_BHTS = dropout(probs_BHTS, dropout_rate, dropout_keys_B)
    return jnp.einsum("BHTS,BSHK->BTHK", probs_BHTS, v_BSHK)
