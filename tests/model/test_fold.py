"""A stock GPT2LMHeadModel of every kind of model computes the Flax model's logits from the folded tensors."""

from typing import Any

import jax
import numpy as np
import pytest
import torch
from hf import model_config
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.errors import UserError
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.model.fold import stock
from jaxgpt.model.gpt2 import logits, param_shapes
from jaxgpt.model.hf_config import to_hf_config
from jaxgpt.model.stack import Params, stacked
from jaxgpt.model_config import ModelConfig

B, T, V = 2, 19, 131
GROUPS = {"none": [1], "all": [1, 2], "attention": [1, 2], "mlp": [1, 2]}
KINDS = [(share, n_groups, True) for share, counts in GROUPS.items() for n_groups in counts]
KINDS.append(("all", 1, False))
ROLES = {"none": {}, "types": {"use_token_types": True}, "table": {"use_role_table": True}}


def perturbed(cfg: ModelConfig, seed: int = 3) -> Params:
    """No bias is zero and no LayerNorm is one, so that none of them can be forgotten."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (leaf.ndim == 1) + np.float32(0.3) * rng.standard_normal(leaf.shape, np.float32), param_shapes(cfg)
    )


def config(**changes: Any) -> ModelConfig:
    return model_config(n_layer=4, **changes)


def torch_logits(cfg: ModelConfig, tensors: dict[str, np.ndarray], ids: np.ndarray, types: np.ndarray | None):
    model = GPT2LMHeadModel(GPT2Config(**to_hf_config(cfg, 0, None, ""))).eval()
    missing, unexpected = model.load_state_dict(
        {name: torch.tensor(tensor) for name, tensor in tensors.items()}, strict=False
    )
    assert not unexpected
    assert missing == (["lm_head.weight"] if cfg.tie_word_embeddings else [])
    assert (model.lm_head.weight is model.transformer.wte.weight) == cfg.tie_word_embeddings
    with torch.inference_mode():
        return model(torch.tensor(ids), token_type_ids=None if types is None else torch.tensor(types)).logits.numpy()


@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize("embed_dim", [None, 13])
@pytest.mark.parametrize(("share", "n_groups", "tied"), KINDS)
def test_a_stock_model_computes_the_same(
    share: str, n_groups: int, tied: bool, embed_dim: int | None, roles: str
) -> None:
    cfg = config(share=share, n_groups=n_groups, embed_dim=embed_dim, tie_word_embeddings=tied, **ROLES[roles])
    params = perturbed(cfg)
    stock_cfg, tensors = stock(cfg, params)
    assert (stock_cfg.share, stock_cfg.n_groups, stock_cfg.embed_dim) == ("none", 1, None)
    assert stock_cfg.tie_word_embeddings == (tied and embed_dim is None and roles != "table")
    assert stock_cfg.vocab_size == V + 2 * (roles == "table")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}

    rng = np.random.default_rng(5)
    ids, speakers = rng.integers(0, V, (B, T)), rng.integers(0, 2, (B, T))
    types = {"none": None, "types": speakers, "table": speakers + V}[roles]
    theirs = torch_logits(stock_cfg, tensors, ids, types)
    ours = np.asarray(logits(cfg, params, ids, roles_BT=speakers))
    assert np.abs(theirs[..., :V] - ours).max() < 1e-4
    assert np.abs(ours).max() > 1  # or the bound would say nothing
    if roles == "table":
        np.testing.assert_array_equal(theirs[..., V:], 0)
        assert np.abs(torch_logits(stock_cfg, tensors, ids, None)[..., :V] - ours).max() > 1e-2


def test_the_loop_over_layers_folds_to_the_same_tensors() -> None:
    changes = {"share": "mlp", "n_groups": 2, "embed_dim": 13}
    cfg = config(**changes)
    looped = config(**changes, scan_layers=True, remat="full")
    params = perturbed(cfg)
    (a_cfg, a), (b_cfg, b) = stock(cfg, params), stock(looped, stacked(looped, params))
    assert a_cfg == b_cfg
    assert a.keys() == b.keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_plain_model_stays_bit_for_bit() -> None:
    for tied in (True, False):
        cfg = config(tie_word_embeddings=tied)
        params = perturbed(cfg)
        stock_cfg, tensors = stock(cfg, params)
        assert stock_cfg == cfg
        assert tensors.keys() == to_hf_tensors(params, cfg).keys()
        jax.tree.map(np.testing.assert_array_equal, tensors, to_hf_tensors(params, cfg))


def test_shared_layers_are_one_array_in_memory() -> None:
    cfg = config(share="attention", n_groups=2)
    _, tensors = stock(cfg, perturbed(cfg))
    weights = [tensors[f"transformer.h.{layer}.attn.c_attn.weight"] for layer in range(4)]
    assert weights[0] is weights[1]
    assert weights[2] is weights[3]
    assert not np.array_equal(weights[0], weights[2])
    assert not np.array_equal(tensors["transformer.h.0.mlp.c_fc.bias"], tensors["transformer.h.1.mlp.c_fc.bias"])


def test_tables_longer_than_a_part_are_multiplied_whole() -> None:
    cfg = config(vocab_size=5003, embed_dim=13, share="all")
    params = perturbed(cfg)
    _, tensors = stock(cfg, params)
    table, matrix = params["wte"]["weight"][:5003].astype(np.float64), params["embed_in"]["weight"].astype(np.float64)
    np.testing.assert_array_equal(tensors["transformer.wte.weight"], (table @ matrix).astype(np.float32))


def test_an_output_bias_that_no_layer_norm_can_make_is_refused() -> None:
    cfg = config(embed_dim=13)
    params = perturbed(cfg)
    params["embed_out"]["weight"][:, 7] = 0  # its bias is all that this column has
    with pytest.raises(UserError, match=r"embed_out\.bias can't be folded .* has no full rank"):
        stock(cfg, params)
    params["embed_out"]["bias"][7] = 0
    stock(cfg, params)
