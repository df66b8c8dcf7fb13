"""The demo's whole path at its smallest: pages, training, perplexity, export, a reply; a second call reuses it all."""

import json
from pathlib import Path

import pytest

from jaxgpt import cli

TINY = ["--train.max_steps=3", "--optimizer.warmup_steps=1", "--model.n_embd=16", "--model.n_layer=1", "--log.every=1"]


@pytest.mark.slow
def test_the_demo_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("XLA_FLAGS")  # the demo's own processes: one device, as on a user's machine
    output = tmp_path / "demo"
    arguments = [
        "--json",
        "--output",
        str(output),
        "--conversations",
        "80",
        "--train_options",
        json.dumps([*TINY, "--train.batch_size=8"]),
    ]
    cli.demo(arguments)
    first = json.loads((output / "report.json").read_text())
    said = capsys.readouterr().out
    assert "jaxgpt chat --model" in said
    assert json.loads(said.splitlines()[-1]) == first
    assert set(first) == {
        "valid_perplexity",
        "unigram_perplexity",
        "train_tokens_per_second",
        "parity_max_abs_diff",
        "export_dir",
        "reply",
        "seconds",
    }
    assert 1 < first["unigram_perplexity"] < first["valid_perplexity"] < 60_000  # three steps teach next to nothing
    assert first["parity_max_abs_diff"] <= 1e-3
    assert first["reply"].strip()
    assert (Path(first["export_dir"]) / "model.safetensors").is_file()

    metrics = (output / "run" / "metrics.jsonl").read_text()
    cli.demo(arguments)
    again = json.loads((output / "report.json").read_text())
    assert (output / "run" / "metrics.jsonl").read_text() == metrics
    for key in ("valid_perplexity", "unigram_perplexity", "train_tokens_per_second", "reply"):
        assert again[key] == first[key]
