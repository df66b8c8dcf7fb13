"""A random model of any kind with a tokenizer of its own, for tests of what an export holds."""

from typing import Any

import jax
import numpy as np
import tokenizers

from jaxgpt.chat.parity_text import PROSE
from jaxgpt.data.tokenizer import END_OF_TEXT, Tokenizer
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import Model

ALBERT: dict[str, Any] = {"embed_dim": 13, "share": "all"}


def small_tokenizer(*special: str) -> Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=307,
        special_tokens=[END_OF_TEXT, *special],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([PROSE], trainer)
    return Tokenizer("small", backend)


def small_model(dialogue_format: str | None = "tags", spread: float = 0.3, **changes: Any) -> Model:
    """No bias is zero and no LayerNorm one; matrices have the standard deviation `spread`."""
    tokenizer = small_tokenizer(*(["<sep>"] if dialogue_format == "sep" else []))
    shape = {"vocab_size": tokenizer.vocab_size, "n_positions": 61, "n_embd": 30, "n_layer": 2, "n_head": 5}
    cfg = ModelConfig(**(shape | {"n_inner": 71} | changes))
    rng = np.random.default_rng(7)
    params = jax.tree.map(
        lambda leaf: (leaf.ndim == 1) + np.float32(spread) * rng.standard_normal(leaf.shape, np.float32),
        param_shapes(cfg),
    )
    return Model(cfg, params, tokenizer, dialogue_format, None)
