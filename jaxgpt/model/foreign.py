"""The names and layouts in which GPT-2's weights go about, brought to Hugging Face's.

Known are Hugging Face's own (with or without `transformer.`), those of DialoGPT's first release (`module.`,
`lm_head.decoder.weight`) and nanoGPT's (`_orig_mod.`, matrices as (out, in), biases perhaps left out).
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model.names import LM_HEAD, PREFIX, WPE, WRE, WTE, hf_name
from jaxgpt.model.weights import Tensor, Tensors
from jaxgpt.model_config import ModelConfig

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_LAYER = re.escape(PREFIX) + r"h\.(\d+)\."
_BUFFER = re.compile(_LAYER + r"attn\.(?:masked_)?bias$")
_MATRIX = re.compile(_LAYER + r"(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
_HEAD_SIZE = 64  # of all GPT-2s that were released


class Renamed(NamedTuple):
    """Tensors by Hugging Face's names.

    ignored: buffers by their names in the file; linear: nanoGPT's family; stock: transformers knows the names, too.
    """

    tensors: Tensors
    ignored: tuple[str, ...]
    linear: bool
    stock: bool


def to_hf_names(tensors: Mapping[str, Tensor]) -> Renamed:
    """Matrices become (in, out); where the file has no biases at all, they are zeros. Nothing is read."""
    named: Tensors = {}
    ignored = []
    for name, tensor in tensors.items():
        new = _to_hf_name(name)
        if _BUFFER.match(new):
            ignored.append(name)
            continue
        if new in named:
            raise UserError(f"{tensor.file} has the tensor {new} twice, the second time as {name}; save it again")
        named[new] = tensor
    linear = _has_linear_layout(named)
    if linear:
        named = {name: _transposed(tensor) if _MATRIX.match(name) else tensor for name, tensor in named.items()}
        if not any(name.endswith(".bias") for name in named):
            named |= _zero_biases(named)
    stock = not linear and all(_to_hf_name(name) in (name, PREFIX + name) for name in tensors)
    return Renamed(named, tuple(ignored), linear, stock)


def _to_hf_name(name: str) -> str:
    name = _WRAPPERS.sub("", name)
    if name == "lm_head.decoder.weight":
        return LM_HEAD
    return PREFIX + name if re.match(r"(?:wte|wpe|h|ln_f)\.", name) else name


def _has_linear_layout(tensors: Tensors) -> bool:
    """Whether matrices are (out, in): PyTorch's Linear has them so, Hugging Face's Conv1D the other way round."""
    matrix, table = tensors.get(hf_name("h.0.attn.c_attn.weight")), tensors.get(WTE)
    if matrix is None or table is None or len(table.shape) != 2:
        return False
    return matrix.shape == (3 * table.shape[1], table.shape[1])


def _transposed(tensor: Tensor) -> Tensor:
    return Tensor(tensor.shape[::-1], tensor.file, lambda: np.ascontiguousarray(tensor.read().T))


def _zero_biases(tensors: Tensors) -> Tensors:
    zeros = {}
    for name, tensor in tensors.items():
        if _MATRIX.match(name) or re.search(r"\.ln_\w+\.weight$", name):
            shape = tensor.shape[-1:]
            zeros[name.removesuffix("weight") + "bias"] = Tensor(
                shape, tensor.file, partial(np.zeros, shape, np.float32)
            )
    return zeros


def config_of_shapes(
    renamed: Renamed, beside: Mapping[str, Any], n_head: int | None, path: Path
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The model of a file without config.json, and what had to be assumed, a sentence each.

    beside: the rest of a training checkpoint, of which nanoGPT's `model_args` is used.
    """
    args = beside.get("model_args")
    args = args if isinstance(args, dict) else {}
    for name in ("n_head", "vocab_size"):
        if not isinstance(args.get(name, None), int | None):
            raise UserError(
                f"{path} says {name} {args[name]!r} in model_args; it must be a whole number, so mend the file"
            )
    table, positions, fc = (_shape(renamed.tensors, name, path) for name in (WTE, WPE, hf_name("h.0.mlp.c_fc.weight")))
    layers = {int(found[1]) for name in renamed.tensors if (found := re.match(_LAYER, name))}
    n_embd, assumed = table[1], []
    heads = args.get("n_head")
    if None not in (n_head, heads) and n_head != heads:
        raise UserError(f"{path} says n_head {heads}, --n_head is {n_head}; leave --n_head out")
    heads = n_head if n_head is not None else heads
    if heads is not None and (heads < 1 or n_embd % heads):
        raise UserError(f"--n_head {heads} does not divide the width {n_embd} of {path}; give the number that it has")
    if heads is None:
        if n_embd % _HEAD_SIZE:
            raise UserError(
                f"{path} does not say its number of attention heads, and its width {n_embd} is no multiple of GPT-2's "
                f"head size {_HEAD_SIZE}; give --n_head, or config.json beside it"
            )
        heads = n_embd // _HEAD_SIZE
        assumed.append(f"{heads} attention heads, for the head size is {_HEAD_SIZE} in every GPT-2 (or give --n_head)")
    activation = "gelu" if renamed.linear else "gelu_new"
    assumed.append(f"activation_function {activation}, as in {'nanoGPT' if renamed.linear else 'GPT-2'}")
    cfg = ModelConfig(
        vocab_size=min(table[0], args.get("vocab_size") or table[0]),
        n_positions=positions[0],
        n_embd=n_embd,
        n_layer=max(layers) + 1,
        n_head=heads,
        n_inner=None if fc[1] == 4 * n_embd else fc[1],
        activation_function=activation,  # type: ignore[arg-type]  # one of two literals
    )
    return cfg, tuple(assumed)


def _shape(tensors: Tensors, name: str, path: Path) -> tuple[int, ...]:
    if name not in tensors or len(tensors[name].shape) != 2:
        raise UserError(
            f"{path} has no matrix {name}, so it is no GPT-2 (its tensors are {_some(list(tensors))}); "
            "give other weights"
        )
    return tensors[name].shape


def shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a plain GPT-2 (`share` none, tables of n_embd)."""
    d, f = cfg.n_embd, cfg.mlp_width
    layer = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, f),
        "mlp.c_fc.bias": (f,),
        "mlp.c_proj.weight": (f, d),
        "mlp.c_proj.bias": (d,),
    }
    names: dict[str, tuple[int, ...]] = {WTE: (cfg.vocab_size, d), WPE: (cfg.n_positions, d)}
    names |= {hf_name(f"h.{i}.{name}"): shape for i in range(cfg.n_layer) for name, shape in layer.items()}
    names |= {hf_name("ln_f.weight"): (d,), hf_name("ln_f.bias"): (d,)}
    if cfg.use_role_table:
        names[WRE] = (2, d)
    return names if cfg.tie_word_embeddings else names | {LM_HEAD: (cfg.vocab_size, d)}


def check_shapes(tensors: Tensors, cfg: ModelConfig, weights: str, config: str) -> None:
    """UserError names what is missing, what is too much, and the first wrong shape. weights, config: for messages."""
    if cfg.n_layer > len(tensors):  # said first: the names of so many layers may not fit the memory
        raise UserError(
            f"{config} has n_layer {cfg.n_layer}, but {weights} has {len(tensors)} tensors in all; give the two that "
            "belong together"
        )
    expected = shapes(cfg)
    for problem, names in (
        ("lacks", [name for name in expected if name not in tensors]),
        ("has beside a GPT-2's", [name for name in tensors if name not in expected]),
    ):
        if names:
            raise UserError(
                f"{weights} {problem} {len(names)} tensor{'s' if len(names) > 1 else ''}: {_some(names)}; its model is "
                f"not the one of {config} ({cfg.n_layer} layers), so give the two that belong together"
            )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"{tensors[name].file}: {name} has shape {tensors[name].shape}, {config} makes it {shape}; "
                "one of the two belongs to another model"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
