"""Tiny models of every shape that decoding meets, and prompts of unequal lengths."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPT2LMHeadModel

from jaxgpt.decode.loop import State, fill, set_up
from jaxgpt.decode.prepare import for_decoding
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig

sys.path.append(str(Path(__file__).parent.parent / "model"))
from hf import logits, model_config, params_of, torch_model

N_POSITIONS = 97
SHAPE: dict[str, Any] = {"n_positions": N_POSITIONS, "n_layer": 2}
_LOUD = 5.0  # positions are multiplied by it: otherwise the likeliest token is soon always the same

Model = tuple[ModelConfig, Params]


def with_torch(seed: int = 0, ours: dict[str, Any] | None = None, **both: Any) -> tuple[GPT2LMHeadModel, Model]:
    """The same model twice, ours as decoding wants it; `ours` are options that Hugging Face does not have."""
    theirs = torch_model(seed, **SHAPE | both)
    with torch.no_grad():
        theirs.transformer.wpe.weight *= _LOUD
    cfg = model_config(**SHAPE | both | (ours or {}))
    return theirs, for_decoding(cfg, params_of(theirs, cfg))


def random_model(seed: int = 0, **changes: Any) -> Model:
    """Far from how training begins, so that what is forgotten changes the likeliest token; not initialised before,
    which would take seconds to compile.
    """
    cfg = model_config(**SHAPE | changes)
    random = np.random.default_rng(seed)

    def values(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = 0.3 * random.standard_normal(leaf.shape, np.float32)
        *_, module, kind = (str(key.key) for key in path)
        if module == "wpe":
            return _LOUD * noise
        return 1 + noise if kind == "weight" and module.startswith("ln_") else noise

    return cfg, jax.tree_util.tree_map_with_path(values, param_shapes(cfg))


def prompts_of(*lengths: int, high: int = 131, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, high, length).tolist() for length in lengths]


def filled(
    model: Model, prompts: list[list[int]], n: int, roles: list[list[int]] | None = None, seed: int = 0, **options: int
) -> State:
    """Ready for `advance` by n tokens: the prompts in the cache but for nothing."""
    cfg, params = model
    state = set_up(cfg, prompts, roles, n, seed, **options)
    return fill(cfg, params, state, jnp.int32(0), int(state.first))


def uncached_logits(model: Model, rows: list[list[int]], roles: list[list[int]] | None = None) -> list[np.ndarray]:
    """Of every position of every row, (T, V) each, by one pass over rows that are padded on the right."""
    longest = max(map(len, rows))

    def padded(values: list[list[int]]) -> np.ndarray:
        return np.array([row + [0] * (longest - len(row)) for row in values], np.int32)

    types = {} if roles is None else {"roles_BT": padded(roles)}
    out = np.asarray(logits(*model, padded(rows), **types))
    return [values[: len(row)] for values, row in zip(out, rows, strict=True)]
