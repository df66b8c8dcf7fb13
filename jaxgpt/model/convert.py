"""Parameters to and from Hugging Face's names: nothing is transposed, only padding rows come and go."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.names import TABLES, hf_name
from jaxgpt.model.stack import Params, layers_of, unrolled
from jaxgpt.model_config import ModelConfig

_ALIGNMENT = 64  # bytes; what XLA asks of a buffer


def to_hf_tensors(params: Params, cfg: ModelConfig) -> dict[str, np.ndarray]:
    """Hugging Face's name -> float32 array, by the unrolled names. The tables' padding rows are cut off.

    What is not GPT-2's keeps the name that it has here (`transformer.embed_in.weight`); fold.py makes stock models.
    """
    tensors = {}
    # As numpy's arrays first: a layer of a stacked one is then a view and no copy.
    for path, tensor in _leaves(unrolled(cfg, jax.tree.map(np.asarray, params))):
        name = hf_name(path)
        tensors[name] = tensor[: cfg.vocab_size] if name in TABLES else tensor
    return tensors


def from_hf_tensors(tensors: Mapping[str, np.ndarray], cfg: ModelConfig) -> Params:
    """The parameters in the layout that cfg asks for, float32 in buffers that JAX takes over without a copy.

    Each tensor is read once, and only one of them is in memory beside the parameters. UserError names a tensor that is
    missing or of a wrong shape.
    """
    params: Params = {}
    # The largest first: the tensor that is read is then never large beside the parameters that are there already.
    for path, leaf in sorted(_leaves(param_shapes(cfg)), key=lambda found: -found[1].size):
        whole = _aligned(leaf.shape)
        for name, place in _parts(path, whole, cfg):
            _read_into(place, name, tensors)
        _put(params, path, whole)
    return params


def _parts(path: str, whole: np.ndarray, cfg: ModelConfig) -> list[tuple[str, np.ndarray]]:
    """The tensors that a parameter is made of, each with its place in `whole`, whose padding rows become zero."""
    first, _, rest = path.partition(".")
    if cfg.scan_layers and first == "h":
        layers = layers_of(cfg, rest.partition(".")[0])
        return [(hf_name(f"h.{layer}.{rest}"), whole[index]) for index, layer in enumerate(layers)]
    name = hf_name(path)
    if name in TABLES:
        whole[cfg.vocab_size :] = 0
        return [(name, whole[: cfg.vocab_size])]
    return [(name, whole)]


def _read_into(place: np.ndarray, name: str, tensors: Mapping[str, np.ndarray]) -> None:
    if name not in tensors:
        raise UserError(f"the weights have no tensor {name}; they are not those of this configuration")
    tensor = tensors[name]
    if tensor.shape != place.shape:
        raise UserError(
            f"the weights' tensor {name} has shape {tensor.shape}, the configuration makes it {place.shape}; "
            "one of the two belongs to another model"
        )
    np.copyto(place, tensor, casting="same_kind")


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An empty float32 array that JAX takes over without a copy where the device is the CPU."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(np.float32).reshape(shape)


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
