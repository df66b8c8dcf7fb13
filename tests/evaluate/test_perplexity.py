"""Perplexity by hand, by PyTorch conversation by conversation, and the refusal of what does not fit."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
import torch
from transformers import GPT2LMHeadModel

from data_prep.sources.chunk import content_of
from data_prep.worker import split_of
from jaxgpt import cli
from jaxgpt.data.dialogue import FORMATS, Conversation, cut
from jaxgpt.data.loader import Pages
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.perplexity import perplexity
from jaxgpt.evaluate.unigram import unigram_perplexity
from jaxgpt.train.models import load_model


def torch_nll(folder: Path, encoded: list, token_types: bool) -> tuple[float, int]:
    """Σ nll and targets of weight above 0, one piece of a conversation at a time, in PyTorch."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    nll, tokens = 0.0, 0
    for piece in encoded:
        types = torch.tensor(piece.roles.astype(np.int64))[None] if token_types else None
        with torch.inference_mode():
            logits = model(torch.tensor(piece.ids)[None], token_type_ids=types).logits[0, :-1].double()
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(piece.ids[1:]), reduction="none").numpy()
        counted = piece.weights[1:] > 0
        nll, tokens = nll + each[counted].sum(), tokens + int(counted.sum())
    return nll, tokens


@pytest.mark.parametrize("name", ["tags", "sep"])
def test_it_is_what_pytorch_computes_one_conversation_at_a_time(name: str, request: pytest.FixtureRequest) -> None:
    tiny = request.getfixturevalue(f"{name}_run")
    fractions = (("valid", 0.3), ("train", 0.7))
    talks = [Conversation.alternating([turn.strip() for turn in talk]) for talk in tiny_run.CONVERSATIONS]
    talks = [talk for talk in talks if split_of(content_of(talk), fractions, 42) == "valid"]
    tokenizer, dialogue_format = load_tokenizer(str(tiny.hf)), FORMATS[name]
    pieces = []
    for talk in talks:
        ids = [tokenizer.encode(dialogue_format.turn_text(turn)) for turn in talk.turns]
        pieces += cut(dialogue_format.join(talk, ids, tokenizer), tiny_run.ROW_LENGTH)
    nll, tokens = torch_nll(tiny.hf, pieces, token_types=name == "sep")

    for folder in (tiny.run, tiny.hf):
        ours = perplexity(load_model(folder), tiny.pages, "valid")
        for figure in ours:
            assert figure.tokens == tokens
            assert figure.nll_sum == pytest.approx(nll, rel=1e-5)
            assert figure.words == sum(len(turn.text.split()) for talk in talks for turn in talk.turns)
            assert figure.bytes == sum(len(turn.text.encode()) for talk in talks for turn in talk.turns)
            assert figure.low < figure.value < figure.high
        assert ours.token.value == pytest.approx(math.exp(nll / tokens), rel=1e-5)
        assert ours.word.value == pytest.approx(math.exp(nll / ours.word.words), rel=1e-4)
        assert ours.bits_per_byte.value == pytest.approx(nll / math.log(2) / ours.word.bytes, rel=1e-5)
        # The units are the pieces themselves, in whatever order the pages have them.
        each = [torch_nll(tiny.hf, [piece], token_types=name == "sep") for piece in pieces]
        np.testing.assert_allclose(
            sorted(ours.token.unit_sum), sorted(nll for nll, tokens in each if tokens), rtol=1e-4
        )


def test_uniform_logits_give_the_size_of_the_vocabulary(tags_run) -> None:
    model = load_model(tags_run.hf)
    zeros = dataclasses.replace(model, params=jax.tree.map(np.zeros_like, model.params))
    assert perplexity(zeros, tags_run.pages, "valid").token.value == pytest.approx(50257, rel=1e-5)


def test_batch_size_changes_nothing(tags_run) -> None:
    model = load_model(tags_run.hf)
    results = [perplexity(model, tags_run.pages, "valid", batch_size) for batch_size in (1, 40, None)]
    first = results[0].token
    for other in (result.token for result in results[1:]):
        np.testing.assert_allclose(other.unit_sum, first.unit_sum, rtol=1e-5)
        assert (other.tokens, other.low) == (first.tokens, pytest.approx(first.low, rel=1e-5))


def test_unigram_perplexity_by_hand(tags_run) -> None:
    def targets(split: str) -> list[int]:
        batch = Pages(tags_run.pages, split).in_order(0, 1000)
        return [int(t) for t, w in zip(batch["targets"].flat, batch["weights"].flat, strict=True) if w > 0]

    train, valid = targets("train"), targets("valid")
    nll = -sum(math.log((train.count(token) + 1) / (len(train) + 50257)) for token in valid)
    assert unigram_perplexity(tags_run.pages, "train", "valid") == pytest.approx(math.exp(nll / len(valid)), rel=1e-9)


def test_the_command_prints_one_json_object_last(
    tags_run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.perplexity(["--model", str(tags_run.run), "--data", str(tags_run.pages), "--json"])
    out = capsys.readouterr().out.splitlines()
    assert ", split valid, tokenizer " in out[0]
    result = json.loads(out[-1])
    assert list(result) == [
        "token_perplexity",
        "word_perplexity",
        "bits_per_byte",
        "nll_sum",
        "tokens",
        "words",
        "bytes",
        "figures",
    ]
    token = result["figures"][0]
    assert (token["protocol"], token["units"]) == ("token", "conversations")
    assert token["low"] < token["value"] == result["token_perplexity"] < token["high"]


def test_what_does_not_fit_is_refused(tags_run, sep_run, tmp_path: Path) -> None:
    model = load_model(tags_run.hf)
    file = tmp_path / "text.txt"
    file.write_text("some text")
    refused = [
        (sep_run.pages, "valid", "vocabulary of 50258 ids (gpt2) does not fit model.vocab_size 50257"),
        (tags_run.pages, "test", "has no split 'test'; it has valid, train"),
        (file, "valid", "build pages of it first"),
        (tmp_path, "valid", "manifest.json is missing"),
    ]
    for data, split, expected in refused:
        with pytest.raises(UserError) as error:
            perplexity(model, data, split)
        assert expected in str(error.value)
    with pytest.raises(
        UserError, match="dialogue_format tags is not the model's eos; build the pages with --format eos"
    ):
        perplexity(dataclasses.replace(model, dialogue_format="eos"), tags_run.pages, "valid")
    short = dataclasses.replace(model, cfg=dataclasses.replace(model.cfg, n_positions=31))
    with pytest.raises(UserError, match="rows of 47 tokens are longer than the model's n_positions 31"):
        perplexity(short, tags_run.pages, "valid")
    with pytest.raises(UserError, match=r"no checkpoint of step 7; it has 1, 2"):
        load_model(tags_run.run, 7)
