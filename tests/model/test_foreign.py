"""The names and layouts of other tools: each family gives the same model, and what does not fit is named."""

from collections.abc import Callable
from pathlib import Path

import foreign_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from foreign_files import Write, as_dict, assert_same
from hf import logits, model_config, relative_error, tensors_of, torch_model

from jaxgpt.errors import UserError
from jaxgpt.evaluate.subject import open_subject
from jaxgpt.model.convert import from_hf_tensors
from jaxgpt.model.source import open_source


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


@pytest.mark.parametrize("args", [{"n_head": "5"}, {"n_head": 5.0}, {"vocab_size": "many"}])
def test_arguments_of_nanogpt_that_are_no_numbers_are_named(args: dict[str, object], tmp_path: Path) -> None:
    path = foreign_files.bare_file(torch_model(), tmp_path).with_suffix(".pt")
    torch.save({"model": foreign_files.state_of(torch_model()), "model_args": args}, path)
    name, value = next(iter(args.items()))
    with pytest.raises(UserError, match=f"{name} {value!r} in model_args; it must be a whole number"):
        open_source(str(path))


@pytest.mark.parametrize(
    ("spoil", "what"), [(lambda x: x.to_sparse(), r"torch\.sparse_coo"), (lambda x: x.to("meta"), "without values")]
)
def test_tensors_without_plain_values_are_named(
    spoil: Callable[[torch.Tensor], torch.Tensor], what: str, tmp_path: Path
) -> None:
    state = foreign_files.state_of(torch_model())
    state["transformer.wpe.weight"] = spoil(state["transformer.wpe.weight"])
    torch.save(state, tmp_path / "model.bin")
    with pytest.raises(UserError, match=rf"transformer\.wpe\.weight is .*{what}"):
        open_source(str(tmp_path / "model.bin"), 5)


def test_dialogpts_pickle_is_read_in_half_precision(tmp_path: Path) -> None:
    model = torch_model()
    source = open_source(str(foreign_files.dialogpt(model, tmp_path)))
    assert source.cfg == model_config(resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    assert not source.is_stock
    assert_same(as_dict(source), {name: x.astype(np.float16) for name, x in tensors_of(model).items()})


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


def test_padding_rows_take_no_part_in_a_perplexity(tmp_path: Path) -> None:
    model = foreign_files.LinearGPT(50304, 23, 30, 5, 1, True)
    torch.save({"model": model.state_dict(), "model_args": {"n_head": 5}}, tmp_path / "ckpt.pt")
    subject = open_subject(str(tmp_path / "ckpt.pt"), None, "gpt2", None)
    assert subject.model
    assert subject.model.cfg.vocab_size == 50257


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


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    def drop(state: dict[str, torch.Tensor]) -> None:
        for name in list(state):
            if ".h.2." in name:
                del state[name]

    with pytest.raises(UserError, match=r"lacks 12 tensors: transformer\.h\.2\.ln_1\.weight, .* and 9 more"):
        open_source(foreign_files.changed(tmp_path, drop))
    with pytest.raises(UserError, match=r"has beside a GPT-2's 1 tensor: score\.weight"):
        open_source(foreign_files.changed(tmp_path, lambda state: state.update({"score.weight": torch.zeros(2, 30)})))
    wrong = {"transformer.wpe.weight": torch.zeros(29, 30)}
    with pytest.raises(UserError, match=r"wpe\.weight has shape \(29, 30\), .*config\.json makes it \(23, 30\)"):
        open_source(foreign_files.changed(tmp_path, lambda state: state.update(wrong)))
    twice = {"wpe.weight": torch.zeros(23, 30)}
    with pytest.raises(UserError, match=r"transformer\.wpe\.weight twice"):
        open_source(foreign_files.changed(tmp_path, lambda state: state.update(twice)))
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no matrix transformer\.wte\.weight, so it is no GPT-2"):
        open_source(str(tmp_path / "other.pt"))
