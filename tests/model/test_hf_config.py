"""config.json: written for transformers, read back, and refused where it is not a GPT-2 of ours."""

import json
from pathlib import Path
from typing import Any

import foreign_files
import pytest
from hf import model_config, torch_model
from transformers import GPT2Config

from jaxgpt.errors import UserError
from jaxgpt.model.hf_config import read_hf_config, to_hf_config


def config_with(folder: Path, **changes: Any) -> Path:
    foreign_files.config_of(torch_model(), folder, **changes)
    return folder


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


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo', expected 'gpt2'"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        ({"activation_function": "gelu_fast"}, "activation_function is 'gelu_fast'; it must be one of gelu_new"),
        ({"n_embd": "30"}, "n_embd is '30'; it must be a whole number"),
        ({"n_layer": True}, "n_layer is True; it must be a whole number"),
        ({"n_layer": 0}, "n_layer is 0; it must be above 0"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon is None; it must be a number"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1; it must be true or false"),
        ({"n_head": 4}, r"n_embd 30 is not divisible by model\.n_head 4"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected) as refused:
        read_hf_config(config_with(tmp_path, **changes))
    assert "config.json" in str(refused.value)


def test_a_config_of_another_family_says_which_fields_differ(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "n_head": 2}')
    with pytest.raises(UserError, match=r"architectures is \['LlamaForCausalLM'\].*vocab_size, n_positions, n_embd"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds a list"):
        read_hf_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_')
    with pytest.raises(UserError, match="is not JSON"):
        read_hf_config(tmp_path)


def test_options_that_change_no_logit_are_accepted(tmp_path: Path) -> None:
    changes = {"reorder_and_upcast_attn": True, "n_ctx": 7, "gradient_checkpointing": True, "summary_type": "mean"}
    cfg, content = read_hf_config(config_with(tmp_path, **changes, task_specific_params={"a": 1}))
    assert cfg == model_config()
    assert content["n_ctx"] == 7
