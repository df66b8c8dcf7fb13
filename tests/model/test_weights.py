"""Weights from outside: every file and family gives the same model, and nothing in a file is ever run."""

import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hf import SHAPE, logits, model_config, relative_error, tensors_of, torch_model
from safetensors.torch import save_file

from jaxgpt.errors import UserError
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model.hf_config import read_hf_config
from jaxgpt.model.source import Source, open_source

Write = Callable[[Any, Path], Path]


def as_dict(source: Source) -> dict[str, np.ndarray]:
    return dict(source.tensors.items())


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    "write",
    [
        foreign_files.safetensors,
        foreign_files.sharded_safetensors,
        foreign_files.without_prefix,
        foreign_files.pytorch_bin,
        foreign_files.sharded_bin,
    ],
)
def test_every_folder_gives_the_same_tensors(write: Write, tmp_path: Path) -> None:
    model = torch_model()
    source = open_source(str(write(model, tmp_path)))
    assert source.cfg == model_config()
    assert source.is_stock
    assert_same(as_dict(source), tensors_of(model))


def test_buffers_are_ignored_by_name_and_biases_are_not(tmp_path: Path) -> None:
    source = open_source(str(foreign_files.pytorch_bin(torch_model(), tmp_path)))
    assert source.ignored == tuple(
        f"transformer.h.{layer}.attn.{name}" for layer in range(3) for name in ("bias", "masked_bias")
    )
    assert "transformer.h.0.attn.c_attn.bias" in source.tensors


@pytest.mark.parametrize("write", [foreign_files.safetensors, foreign_files.pytorch_bin, foreign_files.bare_file])
def test_an_output_table_of_its_own_is_not_tied(write: Write, tmp_path: Path) -> None:
    model = torch_model(tie_word_embeddings=False)
    source = open_source(str(write(model, tmp_path)), n_head=5 if write is foreign_files.bare_file else None)
    assert not source.cfg.tie_word_embeddings
    assert_same(as_dict(source), tensors_of(model))


def test_the_config_is_believed_where_equal_tables_are_not_tied(tmp_path: Path) -> None:
    model = torch_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.transformer.wte.weight)
    folder = foreign_files.safetensors(model, tmp_path)
    assert not open_source(str(folder)).cfg.tie_word_embeddings
    foreign_files.config_of(model, folder, tie_word_embeddings=True)
    tied = open_source(str(folder))
    assert tied.cfg.tie_word_embeddings
    assert "lm_head.weight" not in tied.tensors


def test_dialogpts_pickle_is_read_in_half_precision(tmp_path: Path) -> None:
    model = torch_model()
    source = open_source(str(foreign_files.dialogpt(model, tmp_path)))
    assert source.cfg == model_config(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    assert not source.is_stock
    assert_same(as_dict(source), {name: x.astype(np.float16) for name, x in tensors_of(model).items()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_other_precisions_become_float32_exactly(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    model = torch_model()
    foreign_files.config_of(model, tmp_path)
    state = {name: x.to(dtype) for name, x in foreign_files.state_of(model).items()}
    if kind == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors")
    assert_same(as_dict(open_source(str(tmp_path))), {name: x.float().numpy() for name, x in state.items()})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_nanogpts_matrices_are_transposed_and_its_logits_come_back(
    bias: bool, checkpoint: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = foreign_files.LinearGPT(131, 23, 30, 5, 3, bias).eval()
    state = {f"_orig_mod.{name}": x for name, x in model.state_dict().items()}
    args = {"n_layer": 3, "n_head": 5, "n_embd": 30, "block_size": 23, "bias": bias, "vocab_size": 131, "dropout": 0.0}
    path = tmp_path / "ckpt.pt"
    torch.save({"model": state, "model_args": args, "iter_num": 7} if checkpoint else state, path)
    source = open_source(str(path), None if checkpoint else 5)
    assert source.cfg.activation_function == "gelu"
    assert source.padded
    params = from_hf_tensors(source.tensors, source.cfg)
    ids = np.random.default_rng(0).integers(0, 131, (2, 17))
    with torch.inference_mode():
        theirs = model(torch.tensor(ids)).numpy()
    assert relative_error(logits(source.cfg, jax.tree.map(jnp.asarray, params), ids), theirs) < 1e-5


def test_padding_rows_of_a_vocabulary_are_cut_where_something_says_so(tmp_path: Path) -> None:
    model = foreign_files.LinearGPT(134, 23, 30, 5, 3, True)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    source = open_source(str(tmp_path / "bare.pt"), 5)
    assert source.cfg.vocab_size == 134
    cut = source.cut_to(131)
    assert cut.cfg.vocab_size == 131
    table = model.transformer["wte"].weight.detach().numpy()
    np.testing.assert_array_equal(cut.tensors["transformer.wte.weight"], table[:131])
    assert any("3 rows are padding" in sentence for sentence in cut.assumed)
    torch.save({"model": model.state_dict(), "model_args": {"n_head": 5, "vocab_size": 132}}, tmp_path / "ckpt.pt")
    assert open_source(str(tmp_path / "ckpt.pt")).tensors["transformer.wte.weight"].shape == (132, 30)
    stock = open_source(str(foreign_files.safetensors(torch_model(), tmp_path / "stock")))
    assert stock.cut_to(7) is stock


def test_a_file_without_config_says_what_it_assumes(tmp_path: Path) -> None:
    path = foreign_files.bare_file(torch_model(), tmp_path)
    with pytest.raises(UserError, match=r"width 30 is no multiple of GPT-2's head size 64; give --n_head"):
        open_source(str(path))
    given = open_source(str(path), 5)
    assert given.cfg == model_config(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    assert_same(as_dict(given), tensors_of(torch_model()))
    path = foreign_files.bare_file(torch_model(n_embd=128, n_head=4), tmp_path / "wide")
    assumed = open_source(str(path))
    assert assumed.cfg.n_head == 2
    assert "2 attention heads" in assumed.assumed[0]


def test_a_file_beside_its_config_uses_it(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(n_head=6), tmp_path)
    assert open_source(str(folder / "model.safetensors")).cfg.n_head == 6
    with pytest.raises(UserError, match="says n_head 6, --n_head 5; leave --n_head out"):
        open_source(str(folder), 5)


def test_an_exported_role_table_comes_back(tmp_path: Path) -> None:
    model = torch_model(vocab_size=133, tie_word_embeddings=False)
    wte = model.transformer.wte.weight.detach().numpy()
    foreign_files.safetensors(model, tmp_path)
    foreign_files.config_of(model, tmp_path, role_token_ids=[131, 132])
    source = open_source(str(tmp_path))
    assert source.cfg == model_config(use_role_table=True, tie_word_embeddings=False)
    np.testing.assert_array_equal(source.tensors["transformer.wre.weight"], wte[131:])
    np.testing.assert_array_equal(source.tensors["transformer.wte.weight"], wte[:131])
    np.testing.assert_array_equal(source.tensors["lm_head.weight"], tensors_of(model)["lm_head.weight"][:131])
    with torch.no_grad():
        model.lm_head.weight[:131] = model.transformer.wte.weight[:131]
    foreign_files.safetensors(model, tmp_path)
    foreign_files.config_of(model, tmp_path, role_token_ids=[131, 132])
    assert open_source(str(tmp_path)).cfg == model_config(use_role_table=True)
    foreign_files.config_of(model, tmp_path, role_token_ids=[130, 131])
    with pytest.raises(UserError, match=r"role_token_ids is \[130, 131\], expected \[131, 132\]"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("write", [foreign_files.safetensors, foreign_files.sharded_safetensors])
def test_one_tensor_is_in_memory_at_a_time(write: Write, tmp_path: Path) -> None:
    source = open_source(str(write(torch_model(n_embd=120, vocab_size=1009, n_layer=7), tmp_path)))
    largest = 4 * max(int(np.prod(tensor.shape)) for tensor in source.stored.values())
    whole = 4 * sum(int(np.prod(tensor.shape)) for tensor in source.stored.values())
    tracemalloc.start()
    for name in source.tensors:
        _ = source.tensors[name]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3.5 * largest < whole


class Malicious:
    """Touches a file when it is unpickled by a careless reader."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("name", ["model.pkl", "model.bin", "model.pt", "folder"])
@pytest.mark.parametrize("kind", ["plain", "zip", "old"])
def test_a_pickle_that_would_run_code_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    content = foreign_files.state_of(torch_model()) | {"extra": Malicious(proof)}
    path = tmp_path / name
    given = path
    if name == "folder":
        foreign_files.config_of(torch_model(), path)
        path = path / "pytorch_model.bin"
    if kind == "plain":
        path.write_bytes(pickle.dumps(Malicious(proof)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(UserError, match=r"would run code when it is opened: it wants to call \w+\.system") as refused:
        open_source(str(given), 5)
    assert str(path) in str(refused.value)
    assert "convert it to safetensors" in str(refused.value)
    assert not proof.exists()
    if kind == "plain":  # the file is what it is said to be
        pickle.loads(path.read_bytes())
        assert proof.exists()


def config_with(folder: Path, **changes: Any) -> Path:
    foreign_files.config_of(torch_model(), folder, **changes)
    return folder


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


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> str:
    model = torch_model()
    foreign_files.config_of(model, folder)
    state = foreign_files.state_of(model)
    edit(state)
    save_file(state, folder / "model.safetensors")
    return str(folder)


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    def drop(state: dict[str, torch.Tensor]) -> None:
        for name in list(state):
            if ".h.2." in name:
                del state[name]

    with pytest.raises(UserError, match=r"lacks 12 tensors: transformer\.h\.2\.ln_1\.weight, .* and 9 more"):
        open_source(change(tmp_path, drop))
    with pytest.raises(UserError, match=r"has beside a GPT-2's 1 tensor: score\.weight"):
        open_source(change(tmp_path, lambda state: state.update({"score.weight": torch.zeros(2, 30)})))
    wrong = {"transformer.wpe.weight": torch.zeros(29, 30)}
    with pytest.raises(UserError, match=r"wpe\.weight has shape \(29, 30\), .*config\.json makes it \(23, 30\)"):
        open_source(change(tmp_path, lambda state: state.update(wrong)))
    twice = {"wpe.weight": torch.zeros(23, 30)}
    with pytest.raises(UserError, match=r"transformer\.wpe\.weight twice"):
        open_source(change(tmp_path, lambda state: state.update(twice)))
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no matrix transformer\.wte\.weight, so it is no GPT-2"):
        open_source(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(value: float, tmp_path: Path) -> None:
    source = open_source(change(tmp_path, lambda state: state["transformer.h.1.mlp.c_fc.weight"][7].fill_(value)))
    with pytest.raises(UserError, match=rf"h\.1\.mlp\.c_fc\.weight has 71 of 2130 .* first {value} at \[7, 0\]"):
        as_dict(source)


def test_damaged_files_say_which(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path / "st")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:5], b"", b"\xff" * 100, whole[:8] + b"[]" + whole[10:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
            open_source(str(folder))
    folder = foreign_files.pytorch_bin(torch_model(), tmp_path / "bin")
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense", whole[:-7]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged"):
            open_source(str(folder))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        open_source(str(folder))
    torch.save({"a": 3}, path)
    with pytest.raises(UserError, match="'a' is no tensor"):
        open_source(str(folder))


def test_a_folder_must_hold_whole_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        open_source(str(tmp_path))
    config_with(tmp_path)
    with pytest.raises(UserError, match="it has none of them"):
        open_source(str(tmp_path))
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"it has several \(a\.pkl, b\.pkl\); name one"):
        open_source(str(tmp_path))
    folder = foreign_files.sharded_bin(torch_model(), tmp_path / "sharded")
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    (folder / "pytorch_model-00002-of-00002.bin").rename(folder / "gone")
    with pytest.raises(UserError, match=r"names the shard pytorch_model-00002-of-00002\.bin, which is not there"):
        open_source(str(folder))
    (folder / "gone").rename(folder / "pytorch_model-00002-of-00002.bin")
    content["weight_map"]["made.up"] = "pytorch_model-00002-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names 1 tensors that its shards do not hold \(made\.up\)"):
        open_source(str(folder))
    content["weight_map"]["made.up"] = "../outside.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names the shard '\.\./outside\.bin', which is no file of weights beside it"):
        open_source(str(folder))
    index.write_text("{}")
    with pytest.raises(UserError, match="is no index of shards"):
        open_source(str(folder))


def test_other_names_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder or file here, and no name on the Hugging Face hub"):
        open_source(str(tmp_path / "nothing"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt is no file of weights; give one that ends in \.safetensors"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(UserError, match=r"owner/model is no folder or file here, and the Hugging Face hub did not"):
        open_source("owner/model")


def test_a_hub_name_is_found_in_the_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    foreign_files.safetensors(torch_model(), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    source = open_source("owner/model")
    assert source.path == repository / "snapshots" / "abc"
    assert_same(as_dict(source), tensors_of(torch_model()))


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["pytorch_model.bin", "model.safetensors", "tf_model.h5"], ["model.safetensors"]),
        (
            ["model.safetensors.index.json", "pytorch_model.bin"],
            ["model.safetensors.index.json", "model-*.safetensors"],
        ),
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
    ],
)
def test_one_kind_of_weights_is_downloaded(
    files: list[str], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path)
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: [*files, "config.json"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_source("owner/model").cfg == model_config()
    assert asked["name"] == "owner/model"
    assert [pattern for pattern in asked["patterns"] if "model" in pattern and pattern != "*.model"] == wanted
    assert {"config.json", "tokenizer.json", "merges.txt"} <= set(asked["patterns"])
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: ["config.json", "tf_model.h5"])
    with pytest.raises(UserError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        open_source("owner/model")


def test_a_folder_with_a_tokenizer_names_it(tmp_path: Path) -> None:
    folder = foreign_files.safetensors(torch_model(), tmp_path)
    assert open_source(str(folder)).tokenizer is None
    (folder / "vocab.json").write_text("{}")
    assert open_source(str(folder)).tokenizer == folder
    assert SHAPE["vocab_size"] == open_source(str(folder)).cfg.vocab_size
