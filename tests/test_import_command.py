"""`jaxgpt import`: what it writes is the source's model, which the other commands take."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt import cli
from jaxgpt.config import Config
from jaxgpt.data.loader import Pages, evaluation_batches
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.train.models import load_model

sys.path.insert(0, str(Path(__file__).parent / "train"))


def jaxgpt(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Runs the command in this process -> what it prints as JSON."""
    monkeypatch.setattr(sys, "argv", ["jaxgpt", *arguments, "--json"])
    cli.main()
    outcome: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return outcome


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["jaxgpt", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    return err


def small_tokenizer(folder: Path) -> Path:
    """131 ids: a letter each, and the end of text."""
    vocabulary = {chr(33 + number): number for number in range(130)} | {"<|endoftext|>": 130}
    content = {"version": "1.0", "added_tokens": [], "pre_tokenizer": None, "normalizer": None}
    content |= {"post_processor": None, "decoder": None, "truncation": None, "padding": None}
    content["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "!"}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with random weights everywhere, an output table of its own and GPT-2's tokenizer."""
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_positions=37, n_embd=14, n_layer=2, n_head=2, tie_word_embeddings=False))
    with torch.no_grad():
        for param in model.parameters():
            param += 0.1 * torch.randn_like(param)
    model.save_pretrained(folder)
    load_tokenizer("gpt2").save(folder)
    return folder


@pytest.mark.slow
def test_an_import_is_a_run_that_the_other_commands_take(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny import write_pages

    run = tmp_path / "run"
    outcome = jaxgpt(["import", str(hf), "--output", str(run)], monkeypatch, capsys)
    theirs = GPT2LMHeadModel.from_pretrained(hf).eval()
    assert outcome["parameters"] == theirs.num_parameters()
    assert outcome["dialogue_format"] is None
    assert outcome["parity"]["top1_agreement"] == 1.0
    assert outcome["parity"]["relative_diff"] < 1e-5
    model = load_model(run)
    assert (model.step, model.tokenizer.hash) == (0, outcome["tokenizer_hash"])
    ours = to_hf_tensors(model.params, model.cfg)
    for name, tensor in load_file(hf / "model.safetensors").items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)
    assert yaml.safe_load((run / "config.yaml").read_text())["init_from"] == str(hf)

    pages = write_pages(tmp_path / "pages", tokenizer=load_tokenizer("gpt2"))
    with torch.inference_mode():
        nll = sum(
            float(
                torch.nn.functional.cross_entropy(
                    theirs(torch.tensor(batch["input_ids"].astype(np.int64))).logits.flatten(0, 1).double(),
                    torch.tensor(np.where(batch["weights"] > 0, batch["targets"], -100).astype(np.int64)).flatten(),
                    reduction="sum",
                )
            )
            for batch in evaluation_batches(Pages(pages, "valid"), 8)
        )
    for source in (run, hf):
        told = jaxgpt(["perplexity", "--model", str(source), "--data", str(pages)], monkeypatch, capsys)
        assert told["nll_sum"] == pytest.approx(nll, rel=1e-5)

    again = jaxgpt(["import", str(hf), "--output", str(run), "--format", "eos"], monkeypatch, capsys)
    assert again["dialogue_format"] == "eos"
    assert load_model(run).dialogue_format == "eos"


def test_a_file_is_imported_with_a_tokenizer_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = small_tokenizer(tmp_path / "small")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=137, n_positions=23, n_embd=64, n_layer=1, n_head=1))
    state = {}
    for name, x in model.transformer.state_dict().items():
        state[f"module.{name}"] = x.T.contiguous() if x.ndim == 2 and name.startswith("h.") else x
    path = tmp_path / "nano.pt"
    torch.save(state, path)
    run = tmp_path / "run"
    error = refused(["import", str(path), "--output", str(run)], monkeypatch, capsys)
    assert "nano.pt comes without a tokenizer; name the one" in error
    error = refused(["import", str(path), "--output", str(run), "--tokenizer", "gpt2"], monkeypatch, capsys)
    assert "has a vocabulary of 137 ids, its tokenizer gpt2 one of 50257" in error
    assert not run.exists()
    command = ["import", str(path), "--output", str(run), "--tokenizer", str(tokenizer)]
    assert "the format sep needs the token <sep>" in refused([*command, "--format", "sep"], monkeypatch, capsys)
    assert "format" in refused([*command, "--format", "xml"], monkeypatch, capsys)
    outcome = jaxgpt(command, monkeypatch, capsys)
    assert outcome["model"]["vocab_size"] == 131
    assert outcome["model"]["n_head"] == 1
    assert any("6 rows are padding" in sentence for sentence in outcome["assumed"])
    assert outcome["parity"]["relative_diff"] < 1e-5
    table = np.asarray(load_model(run).params["wte"]["weight"])
    np.testing.assert_array_equal(table[:131], model.transformer.wte.weight.detach().numpy()[:131])


def test_bad_input_writes_nothing(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("precious")
    error = refused(["import", str(hf), "--output", str(mine)], monkeypatch, capsys)
    assert "already holds something that is no import" in error
    assert "already holds something" in refused(["import", str(hf), "--output", str(hf)], monkeypatch, capsys)
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]
    run = tmp_path / "run"
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).symlink_to(hf / name)
    state = {name: torch.tensor(x) for name, x in load_file(hf / "model.safetensors").items()}
    state["transformer.ln_f.weight"][3] = float("nan")
    save_file(state, broken / "model.safetensors")
    error = refused(["import", str(broken), "--output", str(run)], monkeypatch, capsys)
    assert "transformer.ln_f.weight has 1 of 14 numbers that are not finite" in error
    assert "nothing is no folder" in refused(["import", "./nothing", "--output", str(run)], monkeypatch, capsys)
    assert not run.exists()


def test_a_run_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(asdict(Config(output=str(run)))))
    error = refused(["import", str(run), "--output", str(tmp_path / "new")], monkeypatch, capsys)
    assert "is a run already" in error


@pytest.mark.slow
def test_no_second_copy_of_the_weights_is_made(tmp_path: Path) -> None:
    """A second copy of the weights anywhere would make peak memory grow at least twice as fast as they do.

    Not a test of the 1.3 that an import of gpt2-xl may take: buffers of a constant size (some 100 MB to compute and
    write) are a third of this model, and little of that one.
    """
    tokenizer = small_tokenizer(tmp_path / "small")
    peaks, sizes = [], []
    for width in (64, 1024):
        source, run = tmp_path / f"hf{width}", tmp_path / f"run{width}"
        model = GPT2LMHeadModel(GPT2Config(vocab_size=131, n_embd=width, n_layer=7, n_head=width // 64))
        model.save_pretrained(source)
        sizes.append(4 * model.num_parameters())
        del model
        command = ["import", str(source), "--tokenizer", str(tokenizer), "--output", str(run)]
        code = (
            "import resource, sys; from jaxgpt.cli import main; main(); "
            "print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            env={**os.environ, "XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 1.6 * (sizes[1] - sizes[0])
