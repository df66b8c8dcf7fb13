"""Parameters to and from a stock Hugging Face GPT-2 folder: nothing is transposed, only padding rows come and go."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import Params

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
)


def to_hf_tensors(params: Params, cfg: ModelConfig) -> dict[str, np.ndarray]:
    """Hugging Face name -> float32 array. The table's padding rows are cut off; lm_head is tied and not stored."""
    tensors = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            for name, child in node.items():
                visit(child, (*path, name))
        else:
            tensors[_PREFIX + ".".join(path)] = np.asarray(node)

    visit(params, ())
    table = f"{_PREFIX}wte.weight"
    tensors[table] = np.ascontiguousarray(tensors[table][: cfg.vocab_size])
    return tensors


def from_hf_tensors(tensors: dict[str, np.ndarray], cfg: ModelConfig, like: Params) -> Params:
    """The parameters in the tree of `like` (arrays or shapes); UserError names what is missing or of a wrong shape."""
    table = f"{_PREFIX}wte.weight"
    padding = cfg.padded_vocab_size - cfg.vocab_size

    def visit(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {name: visit(child, (*path, name)) for name, child in node.items()}
        name = _PREFIX + ".".join(path)
        if name not in tensors:
            raise UserError(f"{WEIGHTS} has no tensor {name}; it is not a whole GPT-2 of this config.json")
        expected = (cfg.vocab_size, cfg.n_embd) if name == table else node.shape
        if tensors[name].shape != expected:
            raise UserError(
                f"{WEIGHTS}: {name} has shape {tensors[name].shape}, config.json makes it {expected}; "
                "one of the two files belongs to another model"
            )
        tensor = np.asarray(tensors[name], np.float32)
        return np.pad(tensor, ((0, padding), (0, 0))) if name == table else tensor

    return visit(like, ())


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
        "tie_word_embeddings": True,
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
