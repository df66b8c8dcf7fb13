"""A model's parameters in the form that decoding reads them fastest.

Dimensions: N rows, E width of the tables, V vocabulary.
"""

import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.gpt2 import output_table, to_logits
from jaxgpt.model.layers import SLICES, times_slices
from jaxgpt.model.stack import Params, unrolled
from jaxgpt.model_config import ModelConfig

_HEAD = "head_slices"
_MOST_SLICES = 8


def for_decoding(cfg: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """The model as this room wants it: a tree per layer, matrices in cfg.dtype already, on a CPU in slices."""
    cfg = replace(cfg, scan_layers=False, remat="none")
    params = unrolled(cfg, params)
    if jax.default_backend() != "cpu":
        return cfg, _cast(cfg, params)
    prepared: Params = _sliced(_cast(cfg, params))
    table_VE = output_table(params)[: cfg.vocab_size].astype(cfg.dtype)
    return cfg, {**prepared, _HEAD: _slices(jnp.asarray(table_VE))}


def next_logits(cfg: ModelConfig, params: Params, hidden_NE: jax.Array) -> jax.Array:
    """Logits (N, V) float32 of hidden states under prepared parameters."""
    if _HEAD in params:
        return times_slices(hidden_NE, params[_HEAD], jnp.float32)
    return to_logits(hidden_NE, output_table(params)[: cfg.vocab_size])


def _cast(cfg: ModelConfig, params: Params) -> Params:
    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        norm = any(str(key.key).startswith("ln_") for key in path)
        return jnp.asarray(leaf, jnp.float32 if norm else cfg.dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def _sliced(node: Any) -> Any:
    """The tree with SLICES for the weight of every linear layer: those are what has a matrix and a bias."""
    if not isinstance(node, dict):
        return node
    if set(node) == {"weight", "bias"} and node["weight"].ndim == 2:
        return {SLICES: _slices(node["weight"].T), "bias": node["bias"]}
    return {name: _sliced(child) for name, child in node.items()}


def _slices(transposed: jax.Array) -> tuple[jax.Array, ...]:
    """Equal parts of the rows, one for each core."""
    return tuple(jnp.array_split(transposed, min(os.cpu_count() or 1, _MOST_SLICES)))
