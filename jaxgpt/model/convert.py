"""Parameters to and from Hugging Face's names: nothing is transposed, only padding rows come and go."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.stack import Params, stacked, unrolled
from jaxgpt.model_config import ModelConfig

_PREFIX = "transformer."
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


def from_hf_tensors(tensors: Mapping[str, np.ndarray], cfg: ModelConfig) -> Params:
    """The parameters in the layout that cfg asks for, float32 on the host; each tensor is read once.

    UserError names a tensor that is missing or of a wrong shape.
    """
    padding = cfg.padded_vocab_size - cfg.vocab_size
    shapes = param_shapes(replace(cfg, scan_layers=False))
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
