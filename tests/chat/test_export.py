"""The exported folder is a stock one: transformers loads it, talks and computes the same; nothing else is lost."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_model import ALBERT, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2LMHeadModel

from jaxgpt import cli
from jaxgpt.chat.export import export
from jaxgpt.chat.parity import export_parity
from jaxgpt.chat.parity_text import prose
from jaxgpt.data.dialogue import FORMATS, Conversation
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import logits
from jaxgpt.train.models import load_model

MESSAGES = [{"role": "user", "content": "hello there"}]
# The model, the format, and how it is written.
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "plain": ({}, "tags", {}),
    "plain bfloat16 sharded": ({}, "eos", {"dtype": "bfloat16", "max_shard_bytes": 20_000}),
    "plain float16 bin": ({}, "tags", {"dtype": "float16", "pytorch_bin": True}),
    "untied": ({"tie_word_embeddings": False}, "tags", {}),
    "albert": (ALBERT, "tags", {}),
    "albert float16": (ALBERT, "eos", {"dtype": "float16"}),
    "albert sharded bin": (ALBERT, "tags", {"pytorch_bin": True, "max_shard_bytes": 20_000}),
    "albert bfloat16 bin": (ALBERT, "tags", {"dtype": "bfloat16", "pytorch_bin": True}),
    "albert token types": (ALBERT | {"use_token_types": True}, "sep", {}),
    "albert role table": (ALBERT | {"use_role_table": True}, "sep", {"max_shard_bytes": 20_000}),
    "role table": ({"use_role_table": True}, "tags", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_it_and_talks(kind: str, tmp_path: Path) -> None:
    changes, dialogue_format, options = KINDS[kind]
    model = small_model(dialogue_format, spread=0.1, **changes)
    export(model, tmp_path, **options)
    dtype = options.get("dtype", "float32")

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs) is GPT2LMHeadModel
    assert theirs.dtype == getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    roles = model.cfg.vocab_size if model.cfg.use_role_table else 0 if model.cfg.use_token_types else None
    if roles is not None:
        inputs["token_type_ids"] = inputs["input_ids"] * 0 + roles
    out = theirs.generate(**inputs, max_new_tokens=17)
    assert out.shape[1] > inputs["input_ids"].shape[1]
    assert int(out.max()) < model.cfg.vocab_size
    assert export_parity(model, tmp_path, dtype, prose(model.cfg, model.tokenizer)).holds

    sharded, suffix = "max_shard_bytes" in options, "bin" if options.get("pytorch_bin") else "safetensors"
    assert sharded == (len(list(tmp_path.glob(f"*.{suffix}"))) > 1) == bool(list(tmp_path.glob("*.index.json")))
    assert not list(tmp_path.glob("*.safetensors" if suffix == "bin" else "*.bin"))


def test_the_rows_of_a_role_table_are_never_drawn_and_have_names(tmp_path: Path) -> None:
    model = small_model("sep", use_role_table=True)
    export(model, tmp_path)
    size = model.cfg.vocab_size
    assert GenerationConfig.from_pretrained(tmp_path).suppress_tokens == [size, size + 1]
    assert json.loads((tmp_path / "config.json").read_text())["role_token_ids"] == [size, size + 1]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<|role0|>", "<|role1|>"]) == [size, size + 1]
    assert len(tokenizer) == size + 2


def test_a_role_table_keeps_its_ids_where_the_tokenizer_is_smaller_than_the_model(tmp_path: Path) -> None:
    model = small_model(use_role_table=True, vocab_size=311)
    assert model.tokenizer.vocab_size < 309
    export(model, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<|role0|>", "<|role1|>"]) == [311, 312]
    taken = dataclasses.replace(model, tokenizer=model.tokenizer.with_tokens(["<|role1|>"]))
    with pytest.raises(UserError, match=r"the ids \[311, \d+\], the model has \[311, 312\]"):
        export(taken, tmp_path / "taken")


@pytest.mark.parametrize("name", ["tags", "sep"])
def test_logits_of_a_trained_run(name: str, request: pytest.FixtureRequest) -> None:
    tiny = request.getfixturevalue(f"{name}_run")
    theirs = AutoModelForCausalLM.from_pretrained(tiny.hf)
    ours = load_model(tiny.run)
    ids = np.arange(100, 137)[None]
    types = {"token_type_ids": torch.tensor(ids % 2)} if ours.cfg.use_token_types else {}
    with torch.inference_mode():
        expected = theirs(torch.tensor(ids), **types).logits.numpy()
    np.testing.assert_allclose(logits(ours.cfg, ours.params, ids, roles_BT=ids % 2), expected, atol=1e-4)
    assert expected.shape[-1] == ours.cfg.vocab_size


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
    assert config.suppress_tokens is None


@pytest.mark.slow
def test_the_command_reports_and_exports_again(tags_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "hf"
    for options in ([], ["--dtype", "bfloat16", "--pytorch_bin"]):
        cli.export([str(tags_run.run), "--output", str(output), "--step", "1", "--json", *options])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert (report["step"], report["dtype"]) == (1, "bfloat16")
    assert 0 < report["relative_diff"] < report["bound"]
    assert report["tokens"] > 50
    assert f"{tags_run.pages}, split valid" in report["text"]
    assert lines[4] == f"{output} holds the model of step 1 in float32"
    assert "perplexity" in "".join(lines[:5])
    assert not (output / "model.safetensors").exists()
    assert (output / "pytorch_model.bin").is_file()


def test_the_command_fails_where_the_models_differ(
    tags_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jaxgpt.chat.parity.BOUNDS", {"float32": 1e-12})
    with pytest.raises(UserError, match=r"hf: logits of JAX and PyTorch differ by .* more than 1e-12; do not use it"):
        cli.export([str(tags_run.run), "--output", str(tmp_path / "hf")])
    assert "bound 1e-12" in capsys.readouterr().out


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    model = small_model()
    foreign: list[dict[str, str]] = [
        {"thesis.txt": "years of work"},
        {"model.safetensors": "x", "generation_config.json": "{}", "config.json": '{"model_type": "gpt2"}'},
        {"model.safetensors": "x", "config.json": "[1]"},
        {"config.json": "{no json"},
        {"README.md": "# mine\n", "model.safetensors": "x"},
    ]
    for number, files in enumerate(foreign):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        before = _contents(folder)
        with pytest.raises(UserError, match="already holds something that is no exported model"):
            export(model, folder)
        assert _contents(folder) == before
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UserError, match="already holds something"):
        export(model, file)


def test_what_killed_processes_left_blocks_nothing_and_goes(tmp_path: Path) -> None:
    model = small_model("tags")
    left = [tmp_path / f".{name}.{'0123456789abcdef' * 2}.partial" for name in ("README.md", "model.safetensors")]
    for path in left:
        path.write_text("half")
    export(model, tmp_path)
    assert not any(path.exists() for path in left)
    GPT2LMHeadModel.from_pretrained(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".mine.partial").touch()  # not a name of ours
    with pytest.raises(UserError, match="already holds something that is no exported model"):
        export(model, tmp_path / "other")


def test_an_earlier_models_chat_template_goes(tmp_path: Path) -> None:
    model = small_model("tags")
    export(model, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    export(dataclasses.replace(model, dialogue_format=None), tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None


def test_a_model_is_not_written_over_itself(tmp_path: Path) -> None:
    export(small_model(), tmp_path / "hf")
    before = _contents(tmp_path / "hf")
    (tmp_path / "link").symlink_to(tmp_path / "hf")
    for source in ("hf", "hf/model.safetensors"):
        for output in ("hf", "link", "hf/../hf"):
            with pytest.raises(UserError, match="holds the model itself; give a new folder"):
                cli.export([str(tmp_path / source), "--output", str(tmp_path / output), "--dtype", "float16"])
    assert _contents(tmp_path / "hf") == before


def test_values_that_do_not_fit_leave_an_older_export_whole(tmp_path: Path) -> None:
    model = small_model()
    export(model, tmp_path)
    before = _contents(tmp_path)
    model.params["ln_f"]["weight"][3] = 1e5
    with pytest.raises(UserError, match=r"transformer\.ln_f\.weight holds 100000\.0, which float16 can't"):
        export(model, tmp_path, "float16")
    assert _contents(tmp_path) == before


def test_a_killed_export_is_no_model_and_the_next_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    export(model, tmp_path)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.model.write._write_safetensors", killed)
        with pytest.raises(KeyboardInterrupt):
            export(model, tmp_path, "bfloat16")
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(UserError, match=r"config\.json"):
        load_model(tmp_path)
    export(model, tmp_path, "bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_damaged_weights_are_named(tags_run, tmp_path: Path) -> None:
    for name, content in _contents(tags_run.hf).items():
        (tmp_path / name).write_bytes(content)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match=r"must hold weights as model\.safetensors"):
        load_model(tmp_path)
