"""Parameters to Hugging Face's names and back."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from hf import model_config, params_of, tensors_of, torch_model

from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors, to_hf_tensors
from jaxgpt.model.gpt2 import param_shapes
from jaxgpt.model.stack import Params, stacked
from jaxgpt.model_config import ModelConfig

CFG = model_config()


def random_params(cfg: ModelConfig) -> Params:
    """As if trained: the tables' rows beyond the vocabulary are zero."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), param_shapes(cfg))
    for table in params.keys() & {"wte", "lm_head"}:
        params[table]["weight"][cfg.vocab_size :] = 0
    return params


def test_names_and_shapes_are_those_of_gpt2lmheadmodel() -> None:
    theirs = dict(torch_model().state_dict())
    del theirs["lm_head.weight"]  # tied to wte
    ours = to_hf_tensors(random_params(CFG), CFG)
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tuple(t.shape) for name, t in theirs.items()}
    assert {tensor.dtype for tensor in ours.values()} == {np.dtype("float32")}


def test_round_trip_is_bitwise() -> None:
    params = random_params(CFG)
    jax.tree.map(np.testing.assert_array_equal, from_hf_tensors(to_hf_tensors(params, CFG), CFG), params)
    tensors = tensors_of(torch_model())
    back = to_hf_tensors(params_of(torch_model(), CFG), CFG)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share": "all"},
        {"share": "attention", "n_groups": 2, "embed_dim": 7, "use_role_table": True},
        {"share": "mlp", "n_groups": 2, "tie_word_embeddings": False},
    ],
    ids=str,
)
def test_a_stacked_model_has_the_tensors_of_the_unrolled_one(changes: dict[str, Any]) -> None:
    cfg = model_config(n_layer=4, **changes)
    looped = replace(cfg, scan_layers=True)
    tensors = to_hf_tensors(random_params(cfg), cfg)
    params = from_hf_tensors(tensors, looped)
    jax.tree.map(np.testing.assert_array_equal, params, stacked(cfg, from_hf_tensors(tensors, cfg)))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, param_shapes(looped))
    assert not params["wte"]["weight"][131:].any()
    back = to_hf_tensors(params, looped)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
    # A layer is a part of the stack's memory and no copy.
    assert np.shares_memory(back["transformer.h.0.mlp.c_fc.weight"], params["h"]["mlp"]["c_fc"]["weight"])


@pytest.mark.parametrize(
    "name", ["transformer.wte.weight", "transformer.h.2.attn.c_attn.bias", "transformer.ln_f.bias"]
)
def test_a_missing_tensor_is_named(name: str) -> None:
    tensors = tensors_of(torch_model())
    del tensors[name]
    with pytest.raises(UserError, match=f"no tensor {name};"):
        from_hf_tensors(tensors, CFG)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.1.mlp.c_fc.weight", (71, 30)),
        ("transformer.wpe.weight", (24, 30)),
        ("transformer.wte.weight", (131, 31)),
        ("transformer.wte.weight", (300, 30)),
    ],
)
def test_a_wrong_shape_is_named(name: str, shape: tuple[int, int]) -> None:
    tensors = tensors_of(torch_model()) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(UserError, match=f"{name} has shape"):
        from_hf_tensors(tensors, CFG)


@pytest.mark.parametrize("rows", [130, 132])
def test_a_table_of_another_vocabulary_is_refused(rows: int) -> None:
    tensors = tensors_of(torch_model()) | {"transformer.wte.weight": np.zeros((rows, 30), np.float32)}
    with pytest.raises(UserError, match=r"wte\.weight"):
        from_hf_tensors(tensors, CFG)
