"""One small GPT-2 in all the files and by all the names in which GPT-2s go about."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hf import torch_model
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2LMHeadModel

from jaxgpt.model.source import Source

Write = Callable[[GPT2LMHeadModel, Path], Path]


def state_of(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """Parameters, each once; the output table only where it is not tied."""
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def config_of(model: GPT2LMHeadModel, folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | changes))


def safetensors(model: GPT2LMHeadModel, folder: Path) -> Path:
    config_of(model, folder)
    save_file(state_of(model), folder / "model.safetensors")
    return folder


def sharded_safetensors(model: GPT2LMHeadModel, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="30KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def without_prefix(model: GPT2LMHeadModel, folder: Path) -> Path:
    config_of(model, folder)
    save_file(
        {name.removeprefix("transformer."): x for name, x in state_of(model).items()}, folder / "model.safetensors"
    )
    return folder


def pytorch_bin(model: GPT2LMHeadModel, folder: Path) -> Path:
    """As old versions of transformers wrote it: with masks and the tied table."""
    config_of(model, folder)
    state = state_of(model) | {"lm_head.weight": model.lm_head.weight.detach()}
    for layer in range(model.config.n_layer):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 23, 23, dtype=torch.uint8)
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def sharded_bin(model: GPT2LMHeadModel, folder: Path) -> Path:
    config_of(model, folder)
    state = state_of(model)
    names = list(state)
    weight_map = {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05d}-of-00002.bin"
        torch.save({name: state[name] for name in names[part::2]}, folder / file)
        weight_map |= dict.fromkeys(names[part::2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def dialogpt(model: GPT2LMHeadModel, folder: Path) -> Path:
    """DialoGPT's first release: half precision, PyTorch's older file, names of its wrapper, no model_type."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon")
    content = {name: getattr(model.config, name) for name in fields} | {"n_ctx": 23}
    (folder / "config.json").write_text(json.dumps(content))
    state = {f"module.{name}": x.half() for name, x in state_of(model).items()}
    state["module.lm_head.decoder.weight"] = state["module.transformer.wte.weight"]
    torch.save(state, folder / "small_ft.pkl", _use_new_zipfile_serialization=False)
    return folder


def bare_file(model: GPT2LMHeadModel, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_of(model), folder / "weights.pth")
    return folder / "weights.pth"


def changed(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """A folder whose tensors `edit` has changed."""
    model = torch_model()
    config_of(model, folder)
    state = state_of(model)
    edit(state)
    save_file(state, folder / "model.safetensors")
    return str(folder)


def as_dict(source: Source) -> dict[str, np.ndarray]:
    return dict(source.tensors.items())


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """The same names, and the same numbers as float32."""
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=bias), nn.LayerNorm(width, bias=bias)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias), "c_proj": nn.Linear(width, width, bias)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias), "c_proj": nn.Linear(4 * width, width, bias)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).split(width, 2)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x))))


class LinearGPT(nn.Module):
    """GPT-2 of PyTorch's own layers under nanoGPT's names: matrices are (out, in), biases may be left out."""

    def __init__(self, vocab_size: int, positions: int, width: int, heads: int, layers: int, bias: bool):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, width),
                "wpe": nn.Embedding(positions, width),
                "h": nn.ModuleList([_Block(width, heads, bias) for _ in range(layers)]),
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        with torch.no_grad():
            for param in self.parameters():
                param += 0.1 * torch.randn_like(param)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))
