"""A random model of any kind with a tokenizer of its own, for tests of what an export holds."""

from typing import Any

import jax
import numpy as np
from small_tokenizer import trained

from jaxgpt.chat.parity_text import PROSE
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import Model

ALBERT: dict[str, Any] = {"embed_dim": 13, "share": "all"}


def small_model(dialogue_format: str | None = "tags", spread: float = 0.3, **changes: Any) -> Model:
    """No bias is zero and no LayerNorm one; matrices have the standard deviation `spread`."""
    tokenizer = trained([PROSE], *(["<sep>"] if dialogue_format == "sep" else []))
    shape = {"vocab_size": tokenizer.vocab_size, "n_positions": 61, "n_embd": 30, "n_layer": 2, "n_head": 5}
    cfg = ModelConfig(**(shape | {"n_inner": 71} | changes))
    rng = np.random.default_rng(7)
    params = jax.tree.map(
        lambda leaf: (leaf.ndim == 1) + np.float32(spread) * rng.standard_normal(leaf.shape, np.float32),
        param_shapes(cfg),
    )
    return Model(cfg, params, tokenizer, dialogue_format, None)
