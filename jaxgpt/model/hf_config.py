"""config.json of a Hugging Face GPT-2 to the model's configuration and back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig

FILE = "config.json"
ROLE_TOKEN_IDS = "role_token_ids"  # ours: the two last rows of the tables, which an export makes of a role table
ROLE_TOKENS = ("<|role0|>", "<|role1|>")  # how the exported tokenizer calls them
GPT2_FIELDS = (
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
_TOKEN_TYPES = "use_token_types"  # ours; transformers keeps fields that it does not know
_SHAPE = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# Options of GPT2Config that change what is computed, with the only values that are GPT-2 here.
_REFUSED = {"add_cross_attention": False, "is_encoder_decoder": False, "pruned_heads": {}, "quantization_config": None}
_TYPES = get_type_hints(ModelConfig)


def read_hf_config(folder: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a Hugging Face folder, and the whole content of its config.json.

    UserError where the file is missing, no JSON, or not that of a GPT-2 that this package computes.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {FILE}; give a run, a Hugging Face folder, or a file of weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); export or download the model again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not the fields of a model; export it again")
    return model_config(content, path), content


def model_config(content: Mapping[str, Any], path: Path) -> ModelConfig:
    """The fields of config.json as a ModelConfig; those that change no logit are ignored. path: for messages.

    What an export made of a role table is given back as one: `vocab_size` is without its two rows.
    """
    _check_is_gpt2(content, path)
    for name, value in _REFUSED.items():
        if content.get(name, value) not in (value, None):
            raise UserError(f"{path}: {name} is {content[name]!r}; only GPT-2 with {value!r} can be loaded")
    known = {name: content[name] for name in (*GPT2_FIELDS, _TOKEN_TYPES) if name in content}
    for name, value in known.items():
        _check_type(name, value, path)
    if ROLE_TOKEN_IDS in content:
        rows = [known.get("vocab_size", 0) - 2, known.get("vocab_size", 0) - 1]
        if content[ROLE_TOKEN_IDS] != rows:
            raise UserError(
                f"{path}: {ROLE_TOKEN_IDS} is {content[ROLE_TOKEN_IDS]!r}, expected {rows}; export the run again"
            )
        known |= {"vocab_size": rows[0], "use_role_table": True}
    try:
        return ModelConfig(**known)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def to_hf_config(
    cfg: ModelConfig, eos_token_id: int, dialogue_format: str | None, tokenizer_hash: str
) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: getattr(cfg, name) for name in GPT2_FIELDS},
        "n_ctx": cfg.n_positions,  # as GPT-2's own files have it; llama.cpp's converter reads this one
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "dtype": "float32",
        _TOKEN_TYPES: cfg.use_token_types,
        "dialogue_format": dialogue_format,
        "tokenizer_hash": tokenizer_hash,
    }


def _check_is_gpt2(content: Mapping[str, Any], path: Path) -> None:
    """DialoGPT's own config.json has GPT-2's fields and no model_type."""
    missing = [name for name in _SHAPE if name not in content]
    model_type = content.get("model_type")
    if model_type == "gpt2" or (model_type is None and not missing):
        return
    differs = [f"model_type is {model_type!r}, expected 'gpt2'"]
    if "architectures" in content:
        differs.append(f"architectures is {content['architectures']!r}, expected ['GPT2LMHeadModel']")
    if missing:
        differs.append(f"{', '.join(missing)} of GPT-2 {'is' if len(missing) == 1 else 'are'} not there")
    raise UserError(f"{path} is not that of a GPT-2: {'; '.join(differs)}; give a GPT-2")


def _check_type(name: str, value: Any, path: Path) -> None:
    kind = _TYPES[name]
    if get_args(kind) and kind.__class__ is type(Literal[0]):
        if value not in get_args(kind):
            raise UserError(f"{path}: {name} is {value!r}; it must be one of {', '.join(get_args(kind))}")
        return
    kinds = tuple(get_args(kind)) or (kind,)
    number = (int, float) if float in kinds else kinds
    if not isinstance(value, number) or (isinstance(value, bool) and bool not in kinds):
        wanted = "true or false" if bool in kinds else "a number" if float in kinds else "a whole number"
        raise UserError(f"{path}: {name} is {value!r}; it must be {wanted}")
