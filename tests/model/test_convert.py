"""Parameters to Hugging Face's names and back."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hf import init_params, model_config, params_of, tensors_of, torch_model
from transformers import GPT2Config

from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors, to_hf_tensors
from jaxgpt.model.hf_config import read_hf_config, to_hf_config

CFG = model_config()


def test_names_and_shapes_are_those_of_gpt2lmheadmodel() -> None:
    theirs = dict(torch_model().state_dict())
    del theirs["lm_head.weight"]  # tied to wte
    ours = to_hf_tensors(init_params(CFG, 0), CFG)
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: tuple(t.shape) for name, t in theirs.items()}
    assert {tensor.dtype for tensor in ours.values()} == {np.dtype("float32")}


def test_round_trip_is_bitwise() -> None:
    params = init_params(CFG, 1)
    jax.tree.map(np.testing.assert_array_equal, from_hf_tensors(to_hf_tensors(params, CFG), CFG), params)
    tensors = tensors_of(torch_model())
    back = to_hf_tensors(params_of(torch_model(), CFG), CFG)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


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


def test_config_is_read_by_transformers_and_comes_back(tmp_path: Path) -> None:
    cfg = model_config(activation_function="relu", use_token_types=True, attn_pdrop=0.3, layer_norm_epsilon=1e-4)
    content = to_hf_config(cfg, 17, "tags", "abc")
    (tmp_path / "config.json").write_text(json.dumps(content))
    theirs = GPT2Config.from_pretrained(tmp_path)
    for field in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function"):
        assert getattr(theirs, field) == getattr(cfg, field)
    assert (theirs.layer_norm_epsilon, theirs.attn_pdrop, theirs.eos_token_id) == (1e-4, 0.3, 17)
    assert theirs.tie_word_embeddings
    read, whole = read_hf_config(tmp_path)
    assert read == cfg
    assert (whole["dialogue_format"], whole["tokenizer_hash"]) == ("tags", "abc")


def test_config_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_hf_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gp')
    with pytest.raises(UserError, match="is not JSON"):
        read_hf_config(tmp_path)
    path.write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type is 'llama'"):
        read_hf_config(tmp_path)
    path.write_text('{"model_type": "gpt2", "n_embd": 30, "n_head": 4}')
    with pytest.raises(UserError, match=r"n_embd 30 is not divisible by model\.n_head 4"):
        read_hf_config(tmp_path)
