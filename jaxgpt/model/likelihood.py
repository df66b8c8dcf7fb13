"""How likely given tokens are under given parameters."""

from typing import Any

import jax

from jaxgpt.model.gpt2 import hidden_states, output_table
from jaxgpt.model.loss import token_nll
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig


def target_nll(
    cfg: ModelConfig, params: Params, input_ids_BT: jax.Array, targets_BT: jax.Array, **inputs: Any
) -> jax.Array:
    """-log p of each target, given the inputs up to its own position -> (B, T) float32, nats. inputs: of `GPT2`."""
    hidden_NE = hidden_states(cfg, params, input_ids_BT, **inputs).reshape(-1, cfg.table_width)
    nll_N = token_nll(hidden_NE, output_table(params), targets_BT.reshape(-1), cfg.vocab_size)
    return nll_N.reshape(targets_BT.shape)
