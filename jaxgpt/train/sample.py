"""A sample of what the model would say: the plainest correct decoder, for a look during training.

Every new token runs the whole sequence again, without a cache.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt2 import logits
from jaxgpt.model.stack import Params

TEMPERATURE, TOP_P = 0.9, 0.9


def nucleus(logits_V: jax.Array, top_p: float) -> jax.Array:
    """logits with -inf for all but the likeliest tokens whose probabilities reach `top_p` together."""
    order = jnp.argsort(-logits_V)
    probs = jax.nn.softmax(logits_V[order])
    keep = jnp.cumsum(probs) - probs < top_p  # the likeliest always stays
    return jnp.where(jnp.zeros_like(keep).at[order].set(keep), logits_V, -jnp.inf)


@partial(jax.jit, static_argnums=(0, 4, 5))
def _continue(
    cfg: ModelConfig, params: Params, ids_T: jax.Array, roles_T: jax.Array, n_prompt: int, n_tokens: int, key: jax.Array
) -> jax.Array:
    def step(at: jax.Array, ids_T: jax.Array) -> jax.Array:
        # Attention is causal: what stands after position `at` does not change its logits.
        logits_V = logits(cfg, params, ids_T[None], roles_BT=roles_T[None])[0, at - 1]
        new = jax.random.categorical(jax.random.fold_in(key, at), nucleus(logits_V / TEMPERATURE, TOP_P))
        return ids_T.at[at].set(new)

    return jax.lax.fori_loop(n_prompt, n_tokens, step, ids_T)


def sample(
    cfg: ModelConfig, params: Params, prompt_ids: Sequence[int], prompt_roles: Sequence[int], n_new: int, seed: int
) -> list[int]:
    """Up to `n_new` ids that continue the prompt, as far as the positions reach; temperature 0.9, top-p 0.9."""
    prompt_ids, prompt_roles = prompt_ids[-cfg.n_positions // 2 :], prompt_roles[-cfg.n_positions // 2 :]
    n_prompt = len(prompt_ids)
    n_tokens = min(n_prompt + n_new, cfg.n_positions)
    ids_T = np.zeros(n_tokens, np.int32)
    ids_T[:n_prompt] = prompt_ids
    roles_T = np.full(n_tokens, 1, np.int32)
    roles_T[:n_prompt] = prompt_roles
    return _continue(cfg, params, ids_T, roles_T, n_prompt, n_tokens, jax.random.key(seed))[n_prompt:].tolist()
