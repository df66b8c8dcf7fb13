"""Cross-entropy straight from hidden states.

Dimensions: B batch, T position, D n_embd, V vocabulary (padded).
"""

import jax
import jax.numpy as jnp


def token_nll(hidden_BTD: jax.Array, table_VD: jax.Array, targets_BT: jax.Array, vocab_size: int) -> jax.Array:
    """Negative log-likelihood of each target -> (B, T) float32, nats.

    table_VD: the tied embedding table; its rows from `vocab_size` on are padding and get no probability.
    """
    logits_BTV = jnp.einsum(
        "BTD,VD->BTV", hidden_BTD, table_VD.astype(hidden_BTD.dtype), preferred_element_type=jnp.float32
    )
    logits_BTV = jnp.where(jnp.arange(table_VD.shape[0]) < vocab_size, logits_BTV, -jnp.inf)
    target_logits_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_logits_BT
