"""A Hugging Face GPT-2 with random weights everywhere, and the same model as jaxgpt's parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.model import gpt2
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig

# Compiled as a whole: op by op a small model takes seconds to start.
init_params = jax.jit(gpt2.init_params, static_argnums=0)
hidden_states = jax.jit(gpt2.hidden_states, static_argnums=0)
logits = jax.jit(gpt2.logits, static_argnums=0)

SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "n_positions": 23,
    "n_embd": 30,
    "n_layer": 3,
    "n_head": 5,
    "n_inner": 71,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**(SHAPE | changes))


def torch_model(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    """In evaluation mode; biases and LayerNorms are perturbed too, so that none of them can be forgotten."""
    torch.manual_seed(seed)
    config = GPT2Config(**(SHAPE | changes), bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for param in model.parameters():
            param += 0.1 * torch.randn_like(param)
    return model


def tensors_of(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    return {name: param.detach().numpy().copy() for name, param in model.named_parameters()}


def params_of(model: GPT2LMHeadModel, cfg: ModelConfig) -> Params:
    return jax.tree.map(jnp.asarray, from_hf_tensors(tensors_of(model), cfg))


def relative_error(ours: Any, theirs: Any) -> float:
    """Largest difference as a fraction of the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
