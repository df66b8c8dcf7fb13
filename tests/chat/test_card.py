"""The model card: front matter that is YAML, numbers that are the run's, and code that runs as it stands."""

import contextlib
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from small_model import ALBERT, small_model

from jaxgpt.chat.export import export
from jaxgpt.chat.provenance import provenance
from jaxgpt.config import TrainConfig
from jaxgpt.train.models import load_model


def _card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_front_matter_is_read_by_the_hub(tags_run) -> None:
    data = ModelCard(_card(tags_run.hf)).data.to_dict()
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["jaxgpt", "gpt2", "conversational"],
    }


def test_the_numbers_are_those_of_the_run(tags_run, tmp_path: Path) -> None:
    model = load_model(tags_run.run, 1)
    export(model, tmp_path / "hf", source=tags_run.run)
    card = _card(tmp_path / "hf")
    metrics = [json.loads(line) for line in (tags_run.run / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in metrics if line["step"] == 1 and "valid_loss" in line)
    assert "Step 1 of 2, 8 sequences a step" in card
    assert f"Validation loss {logged['valid_loss']:.4f} nats per token" in card
    assert f"perplexity {logged['valid_perplexity']:.2f} per token of tokenizer `gpt2`" in card
    assert "on the first 1 batches of the split `valid`" in card
    manifest = json.loads((tags_run.pages / "manifest.json").read_text())
    for split, counts in manifest["splits"].items():
        assert f"| {split} | {counts['documents']:,} | {counts['tokens']:,} | {counts['words']:,} |" in card
    source = manifest["sources"][0]
    assert f"| `{source['source']}` | {source['read']:,} | {source['kept']:,} |" in card
    assert manifest["tokenizer_hash"] in card
    assert provenance(tags_run.run, 1).data_hash in card
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])
    assert config["model"]["n_embd"] == 24
    assert config["train"] == asdict(TrainConfig(max_steps=2, batch_size=8))


def test_what_is_not_known_is_not_said(tags_run, tmp_path: Path) -> None:
    for folder in (None, tags_run.hf):
        export(load_model(tags_run.hf), tmp_path / "hf", source=folder)
        card = _card(tmp_path / "hf")
        assert "## Data" not in card
        assert "Validation loss" not in card
        assert "None" not in card
    model = load_model(tags_run.run)
    (tags_run.pages / "manifest.json").rename(tags_run.pages / "away.json")
    try:
        export(model, tmp_path / "hf", source=tags_run.run)
    finally:
        (tags_run.pages / "away.json").rename(tags_run.pages / "manifest.json")
    card = _card(tmp_path / "hf")
    assert provenance(tags_run.run, model.step).data_hash in card
    assert "| valid |" not in card
    assert "None" not in card


def test_parameters_are_counted_as_they_are_stored_and_as_they_were_trained(tmp_path: Path) -> None:
    model = small_model(**ALBERT)
    export(model, tmp_path)
    card = _card(tmp_path)
    vocabulary, d, f = model.cfg.vocab_size, 30, 71
    block = 4 * d + (3 * d * d + 3 * d) + (d * d + d) + (d * f + f) + (f * d + d)
    stored = 2 * vocabulary * d + 61 * d + 2 * block + 2 * d
    trained = (vocabulary + 61) * 13 + (13 * d + d) + block + 2 * d + (d * 13 + 13)
    assert f"A GPT-2 with {stored:,} parameters in float32" in card
    assert f"trained ALBERT-style with {trained:,} parameters" in card


@pytest.mark.parametrize(
    ("dialogue_format", "changes", "roles"),
    [
        (None, {}, None),
        ("tags", ALBERT, None),
        ("tags", {"use_token_types": True}, (0, 1)),
        ("sep", {"use_role_table": True}, (-2, -1)),
        ("eos", {"use_role_table": True}, (-2, -1)),
    ],
    ids=str,
)
def test_its_code_runs(
    dialogue_format: str | None,
    changes: dict[str, Any],
    roles: tuple[int, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model(dialogue_format, **changes)
    export(model, tmp_path / "mine")
    code = re.search(r"```python\n(.*?)```", _card(tmp_path / "mine"), re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert printed.getvalue().strip()
    prompt = names["inputs"]["input_ids"]
    assert names["output"].shape[1] > prompt.shape[1]
    if roles is None:
        assert "token_type_ids" not in code
        return
    user, bot = (role % (model.cfg.vocab_size + 2) for role in roles)
    types = names["inputs"]["token_type_ids"][0].tolist()
    own = {"tags": len(model.tokenizer.encode("B:")), "sep": 1, "eos": 1}[dialogue_format or ""]
    assert types == [user] * (len(types) - own) + [bot] * own
