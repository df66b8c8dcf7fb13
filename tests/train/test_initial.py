"""A run that starts from another model: its parameters exactly, a fresh optimizer, and nothing that does not fit."""

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.config import Config, TrainConfig
from jaxgpt.data.loader import Pages, training_batches
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.imported import write_import
from jaxgpt.train.initial import find_initial, initial_state
from jaxgpt.train.loop import train
from jaxgpt.train.models import find_model, load_model, on_one_device
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.run import is_import
from jaxgpt.train.step import TrainState, init_state

SHAPE: dict[str, Any] = {"n_positions": 37, "n_embd": 14, "n_layer": 2, "n_head": 2, "n_inner": 53}
# Compiled as a whole: op by op it takes seconds.
fresh_state = jax.jit(init_state, static_argnums=0)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_pages(tmp_path_factory.mktemp("pages"), tokenizer=load_tokenizer("gpt2"))


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with GPT-2's tokenizer and random weights everywhere."""
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SHAPE))
    with torch.no_grad():
        for param in model.parameters():
            param += 0.1 * torch.randn_like(param)
    model.save_pretrained(folder)
    load_tokenizer("gpt2").save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def begun(hf: Path, pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step that started from the Hugging Face folder."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train(config(hf, pages, folder))
    return folder


def config(hf: Path, pages: Path, output: Path, max_steps: int = 1, **model: Any) -> Config:
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return tiny.run_config(
        pages,
        output,
        init_from=str(hf),
        model=ModelConfig(**(SHAPE | no_dropout | model)),
        train=TrainConfig(max_steps=max_steps, batch_size=8),
        optimizer=replace(tiny.run_config(pages, output).optimizer, warmup_steps=1),
    )


def start(cfg: Config, tokenizer: Tokenizer) -> TrainState:
    assert cfg.init_from is not None
    found = find_initial(cfg, cfg.init_from, tokenizer)
    return initial_state(cfg, found, Pmapped(jax.devices()[:1]).shapes(cfg))


def expected(hf: Path) -> dict[str, np.ndarray]:
    model = GPT2LMHeadModel.from_pretrained(hf)
    return {name: param.detach().numpy() for name, param in model.named_parameters()}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_parameters_are_the_models_and_the_optimizer_is_new(
    scan_layers: bool, hf: Path, pages: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    cfg = config(hf, pages, tmp_path, scan_layers=scan_layers)
    state = start(cfg, tokenizer)
    assert_same(to_hf_tensors(jax.device_get(state.params), cfg.model), expected(hf))
    assert state.params["wte"]["weight"].shape == (50304, 14)
    fresh = fresh_state(cfg)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, fresh.opt_state)
    assert int(state.step) == 0


@pytest.mark.slow
def test_the_first_loss_is_pytorchs(hf: Path, pages: Path, begun: Path) -> None:
    cfg = config(hf, pages, begun)
    batch, _ = next(training_batches(Pages(pages, "train"), 8, cfg.seed, 0))
    with torch.inference_mode():
        logits = GPT2LMHeadModel.from_pretrained(hf).eval()(torch.tensor(batch["input_ids"].astype(np.int64))).logits
        nll = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.tensor(batch["targets"].astype(np.int64)).flatten(), reduction="none"
        ).numpy()
    weights = batch["weights"].reshape(-1)
    assert tiny.metrics_of(begun)[0]["loss"] == pytest.approx((nll * weights).sum() / weights.sum(), rel=1e-5)


@pytest.mark.slow
def test_what_the_model_lacks_is_fresh_and_positions_are_cut(
    hf: Path, pages: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    cfg = config(hf, pages, tmp_path, vocab_size=50311, n_positions=32, use_role_table=True)
    params = start(cfg, tokenizer.with_tokens(["<sep>"])).params
    theirs, fresh = expected(hf), fresh_state(cfg).params
    table = np.asarray(params["wte"]["weight"])
    np.testing.assert_array_equal(table[:50257], theirs["transformer.wte.weight"])
    assert (table[50257:50311] != 0).all()
    assert (table[50311:] == 0).all()
    np.testing.assert_allclose(table[50257:], fresh["wte"]["weight"][50257:], rtol=1e-6)
    np.testing.assert_array_equal(params["wpe"]["weight"], theirs["transformer.wpe.weight"][:32])
    np.testing.assert_allclose(params["wre"]["weight"], fresh["wre"]["weight"], rtol=1e-6)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_parameters_are_in_memory_once(scan_layers: bool, tmp_path: Path) -> None:
    shape = {"vocab_size": 131, "n_positions": 37, "n_embd": 256, "n_layer": 7, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    found = find_model(str(tmp_path))
    places = on_one_device(replace(found.cfg, scan_layers=scan_layers))
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(places))
    tracemalloc.start()
    params = found.read(places)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, places)
    # Only numpy's memory is traced: it is kept because JAX took it over, or it would be free again.
    assert size < kept < 1.1 * size
    assert peak < 1.3 * size


def test_what_differs_is_listed_with_the_options_to_pass(
    hf: Path, pages: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    cfg = config(hf, pages, tmp_path, n_layer=1, n_inner=None, tie_word_embeddings=False, n_positions=41, share="all")
    with pytest.raises(UserError) as refused:
        start(cfg, tokenizer)
    message = str(refused.value)
    assert "model.n_layer is 2 there, 1 here; model.n_inner is 53 there, 56 here" in message
    assert message.endswith(
        "pass --model.n_layer 2 --model.n_inner 53 --model.tie_word_embeddings true --model.share none "
        "--model.n_positions 37"
    )
    with pytest.raises(UserError, match=r"model\.embed_dim is None there, 7 here; pass --model\.embed_dim null"):
        start(config(hf, pages, tmp_path, embed_dim=7), tokenizer)
    with pytest.raises(UserError, match=r"pass --model\.vocab_size 50257"):
        start(config(hf, pages, tmp_path, vocab_size=131), tokenizer)


def test_nanogpts_padding_is_cut_to_the_pages_vocabulary(
    hf: Path, pages: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    state = {}
    for name, tensor in expected(hf).items():
        x = torch.tensor(tensor)
        matrix = x.ndim == 2 and ".h." in name
        state[name] = x.T.contiguous() if matrix else x
    state["transformer.wte.weight"] = torch.cat([state["transformer.wte.weight"], torch.ones(47, 14)])
    torch.save({"model": state, "model_args": {"n_head": 2}}, tmp_path / "ckpt.pt")
    cfg = config(tmp_path / "ckpt.pt", pages, tmp_path, activation_function="gelu")
    assert_same(to_hf_tensors(jax.device_get(start(cfg, tokenizer).params), cfg.model), expected(hf))


def test_another_tokenizer_is_refused(hf: Path, pages: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(hf / name)
    settings, model = tokenizer.settings_and_model()
    content = json.loads(model)
    content["vocab"]["hello"], content["vocab"]["world"] = content["vocab"]["world"], content["vocab"]["hello"]
    (folder / "tokenizer.json").write_text(Tokenizer.joined(settings, json.dumps(content)))
    with pytest.raises(UserError, match=r"2 tokens have another id in the pages, or none: the first is 'hello'"):
        start(config(folder, pages, tmp_path), tokenizer)
    (folder / "tokenizer.json").unlink()
    tokenizer.with_tokens(["<sep>"]).save(folder)
    with pytest.raises(UserError, match=r"vocabulary of 50257 ids, its tokenizer .* one of 50258"):
        start(config(folder, pages, tmp_path), tokenizer)


@pytest.mark.slow
def test_a_run_goes_on_without_its_beginning_but_not_with_another(
    hf: Path, pages: Path, begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    longer = config(hf, pages, tmp_path / "run", max_steps=2)
    with pytest.raises(UserError, match=rf"began with init_from {hf}, now it is None; set it back"):
        train(replace(longer, init_from=None))
    with pytest.raises(UserError, match=rf"began with init_from {hf}, now it is gpt2"):
        train(replace(longer, init_from="gpt2"))
    hidden = hf.rename(hf.with_name("hidden"))
    try:
        assert train(longer).step == 2
    finally:
        hidden.rename(hf)


@pytest.mark.slow
def test_a_run_can_start_from_a_run_in_the_other_layout(
    hf: Path, pages: Path, begun: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    cfg = config(begun, pages, tmp_path, scan_layers=True, vocab_size=50258)
    ours = to_hf_tensors(jax.device_get(start(cfg, tokenizer).params), cfg.model)
    theirs = to_hf_tensors(load_model(begun).params, load_model(begun).cfg)
    assert (theirs["transformer.wpe.weight"] != expected(hf)["transformer.wpe.weight"]).any()
    ours["transformer.wte.weight"] = ours["transformer.wte.weight"][:50257]
    assert_same(ours, theirs)


@pytest.mark.slow
def test_a_run_can_start_from_an_import_but_an_import_is_no_run(
    hf: Path, pages: Path, begun: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    write_import(load_model(hf), "somewhere", tmp_path / "import")
    assert is_import(tmp_path / "import")
    assert not is_import(begun)
    cfg = config(tmp_path / "import", pages, tmp_path / "run")
    assert_same(to_hf_tensors(jax.device_get(start(cfg, tokenizer).params), cfg.model), expected(hf))
    with pytest.raises(UserError, match=r"is an imported model.*--init_from .*import --output OTHER"):
        train(replace(cfg, output=str(tmp_path / "import")))


def test_bad_names_leave_no_folder(hf: Path, pages: Path, tmp_path: Path) -> None:
    cfg = config(hf, pages, tmp_path / "run")
    with pytest.raises(UserError, match="no name on the Hugging Face hub"):
        train(replace(cfg, init_from=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"has no config\.json"):
        train(replace(cfg, init_from=str(tmp_path)))
    assert not (tmp_path / "run").exists()


def test_a_model_by_its_name(hf: Path, tmp_path: Path) -> None:
    assert find_model(str(hf)).step is None
    with pytest.raises(UserError, match=r"is no run, so it has no checkpoint of step 3; leave --step out"):
        find_model(str(hf), 3)
    state = {name: torch.tensor(x) for name, x in expected(hf).items()}
    (tmp_path / "config.json").write_text((hf / "config.json").read_text())
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"has no tokenizer; name the one that it was trained with.*jaxgpt import"):
        load_model(tmp_path)
    content = json.loads((hf / "config.json").read_text()) | {"dialogue_format": "xml"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="dialogue_format is 'xml'; it must be one of eos, tags, sep"):
        find_model(str(tmp_path))
