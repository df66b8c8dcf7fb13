"""Parameters to and from Hugging Face's names: nothing is transposed, only padding rows come and go."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params, stacked, unrolled

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_PREFIX = "transformer."
_SAME_NAME = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "layer_norm_epsilon",
    "initializer_range",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "tie_word_embeddings",
)
_TABLES = ("wte.weight", "lm_head.weight")  # their rows are padded inside


def to_hf_tensors(params: Params, cfg: ModelConfig) -> dict[str, np.ndarray]:
    """Hugging Face's name -> float32 array, by the unrolled names. The tables' padding rows are cut off.

    What is not GPT-2's keeps the name that it has here (`transformer.embed_in.weight`); fold.py makes stock models.
    """
    tensors = {}
    for path, leaf in _leaves(unrolled(cfg, params)):
        tensor = np.asarray(leaf)
        tensors[_hf_name(path)] = np.ascontiguousarray(tensor[: cfg.vocab_size]) if path in _TABLES else tensor
    return tensors


def from_hf_tensors(tensors: Mapping[str, np.ndarray], cfg: ModelConfig, like: Params) -> Params:
    """The parameters in the tree and layout of `like` (arrays or shapes), float32; each tensor is read once.

    UserError names a tensor that is missing or of a wrong shape.
    """
    padding = cfg.padded_vocab_size - cfg.vocab_size
    shapes = jax.eval_shape(partial(unrolled, cfg), like)
    params: Params = {}
    for path, leaf in _leaves(shapes):
        name = _hf_name(path)
        if name not in tensors:
            raise UserError(f"the weights have no tensor {name}; they are not those of this configuration")
        expected = (cfg.vocab_size, cfg.table_width) if path in _TABLES else leaf.shape
        tensor = np.asarray(tensors[name], np.float32)
        if tensor.shape != expected:
            raise UserError(
                f"the weights' tensor {name} has shape {tensor.shape}, the configuration makes it {expected}; "
                "one of the two belongs to another model"
            )
        _put(params, path, np.pad(tensor, ((0, padding), (0, 0))) if path in _TABLES and padding else tensor)
    return stacked(cfg, params) if cfg.scan_layers else params


def _hf_name(path: str) -> str:
    return path if path.startswith("lm_head.") else _PREFIX + path


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each leaf with its path joined by dots."""
    if not isinstance(node, dict):
        yield path, node
        return
    for name, child in node.items():
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _put(tree: Params, path: str, leaf: np.ndarray) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = leaf


def to_hf_config(
    cfg: ModelConfig, eos_token_id: int, dialogue_format: str | None, tokenizer_hash: str
) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: getattr(cfg, name) for name in _SAME_NAME},
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "dtype": "float32",
        # Ours; transformers keeps fields that it does not know.
        "use_token_types": cfg.use_token_types,
        "dialogue_format": dialogue_format,
        "tokenizer_hash": tokenizer_hash,
    }


def read_hf_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model's shape and the whole config.json of an exported folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder} has no {CONFIG}; give a run or a folder that `jaxgpt export` made")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); export the run again") from None
    if content.get("model_type") != "gpt2":
        raise UserError(f"{path}: model_type is {content.get('model_type')!r}; only gpt2 can be loaded")
    known = {name: content[name] for name in (*_SAME_NAME, "use_token_types") if name in content}
    return ModelConfig(**known), content


def read_hf_weights(folder: Path, cfg: ModelConfig, like: Params) -> Params:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{folder} has no {WEIGHTS}; export the run again")
    try:
        return from_hf_tensors(load_file(path), cfg, like)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); export the run again") from None
