"""The exported folder is a stock one: transformers loads it and computes the same; nothing foreign is overwritten."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2LMHeadModel

from jaxgpt import cli
from jaxgpt.chat.export import export, parity, random_sequences
from jaxgpt.data.dialogue import FORMATS, Conversation
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.models import load_model
from jaxgpt.model.gpt2 import logits


def test_transformers_loads_it_as_its_own(tags_run) -> None:
    model = AutoModelForCausalLM.from_pretrained(tags_run.hf)
    assert isinstance(model, GPT2LMHeadModel)
    ours = load_model(tags_run.run)
    ids = np.arange(100, 137)[None]
    with torch.inference_mode():
        theirs = model(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(logits(ours.cfg, ours.params, ids), theirs, atol=1e-4)
    assert theirs.shape[-1] == 50257


def test_the_padding_rows_and_the_tied_head_are_not_stored(tags_run) -> None:
    tensors = load_file(tags_run.hf / "model.safetensors")
    assert tensors["transformer.wte.weight"].shape == (50257, 24)
    assert not [name for name in tensors if name.startswith("lm_head")]
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}


def test_weights_come_back_bitwise(tags_run) -> None:
    from_run, from_export = load_model(tags_run.run).params, load_model(tags_run.hf).params
    jax.tree.map(np.testing.assert_array_equal, from_run, from_export)


@pytest.mark.parametrize("name", ["tags", "sep"])
def test_the_chat_template_writes_what_the_bot_prompts(name: str, request: pytest.FixtureRequest) -> None:
    tiny = request.getfixturevalue(f"{name}_run")
    texts = ["hello there", "hi! how are you?", "fine, and you?"]
    messages = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]
    theirs = AutoTokenizer.from_pretrained(tiny.hf).apply_chat_template(messages, add_generation_prompt=True)
    prompt = FORMATS[name].prompt(Conversation.alternating(texts), 1, load_tokenizer(str(tiny.hf)))
    assert list(theirs["input_ids"]) == prompt.ids.tolist()


def test_the_default_decoding_samples(tags_run) -> None:
    config = GenerationConfig.from_pretrained(tags_run.hf)
    assert config.do_sample
    assert config.eos_token_id == [628, 50256]  # the two newlines that begin a turn's end, and end-of-text


def test_parity_is_measured_not_assumed(tags_run) -> None:
    model = load_model(tags_run.run)
    good = parity(model, tags_run.hf, random_sequences(model))
    assert good.max_abs_diff < 1e-4
    assert good.jax_perplexity == pytest.approx(good.torch_perplexity, rel=1e-5)
    params = jax.tree.map(np.array, jax.device_get(model.params))
    params["h"]["1"]["mlp"]["c_fc"]["bias"] += 0.5
    bad = parity(dataclasses.replace(model, params=params), tags_run.hf, random_sequences(model))
    assert bad.max_abs_diff > 1e-2


def test_the_command_reports_and_exports_again(tags_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "hf"
    for _ in range(2):
        cli.export([str(tags_run.run), "--output", str(output), "--step", "1", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["step"] == 1
    assert report["max_abs_diff"] < 1e-3
    assert report["tokens"] > 50


def test_a_foreign_folder_is_left_alone(tags_run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="already holds something that is no exported model"):
        export(load_model(tags_run.hf), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_damaged_weights_are_named(tags_run, tmp_path: Path) -> None:
    for file in tags_run.hf.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        load_model(tmp_path)
