"""LAMBADA's two targets, passage by passage in PyTorch; files that hold something else."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate import scoring
from jaxgpt.evaluate.intervals import ratio_interval
from jaxgpt.evaluate.lambada import measure_lambada, read_passages
from jaxgpt.evaluate.protocols import Measured
from jaxgpt.evaluate.scoring import JaxScorer, Scorer, Scores, Text
from jaxgpt.evaluate.torch_scoring import TorchScorer
from jaxgpt.train.models import load_model
from jaxgpt.train.pmapped import Pmapped

REAL = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "lambada" / "lambada_test.jsonl"
LONG = "Some words that come again and again, " * 20  # more tokens than the 61 of the model's context
PASSAGES = [
    "two words",
    '"Give me a minute," she said.\n\n"No need to change," said Shane and led her to the dock',
    "He ordered an antidisestablishmentarianism",
    LONG + "until the end",
    LONG + "or incomprehensibilities",
    "a word of another script: 日本語",
    "two  spaces and naïve  🤖",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("gpt2")


@pytest.fixture(scope="module", params=["sep", "tags"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_run").hf


@pytest.fixture(scope="module")
def model(folder: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def by_pytorch(model: GPT2LMHeadModel, tokenizer: Tokenizer, passage: str) -> tuple[np.ndarray, np.ndarray]:
    """nll of the last word's tokens, and whether each is the model's choice."""
    words = passage.split(" ")
    start = tokenizer.encode(" ".join(words[:-1]))
    n_last = len(tokenizer.encode(passage)) - len(start)
    ids = torch.tensor(tokenizer.encode(passage)[-62:])
    with torch.inference_mode():
        logits = model(ids[None, :-1]).logits[0].double()
    each = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").numpy()
    return each[-n_last:], (logits.argmax(-1) == ids[1:]).numpy()[-n_last:]


def guessed(model: GPT2LMHeadModel, tokenizer: Tokenizer) -> list[str]:
    """Passages whose last word the model guesses."""
    found = []
    for number in range(60):
        start = f"There are {number} of"
        ids = tokenizer.encode(start)
        with torch.inference_mode():
            best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        word = tokenizer.decode([best])
        if word[0] == " " and word[1:].isalnum() and tokenizer.encode(start + word) == [*ids, best]:
            found.append(start + word)
    return found


@pytest.fixture(scope="module")
def passages(model: GPT2LMHeadModel, tokenizer: Tokenizer) -> list[str]:
    return PASSAGES + guessed(model, tokenizer)


def jax_scorer(folder: Path, batch_size: int | None = None) -> JaxScorer:
    found = load_model(folder)
    return JaxScorer(found.cfg, found.params, batch_size)


def check(perplexity: Measured, accuracy: Measured, nll: list[float], right: list[bool]) -> None:
    assert accuracy.value == pytest.approx(np.mean(right), abs=1e-12)
    assert perplexity.value == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)
    for ours in (perplexity, accuracy):
        assert (ours.units, ours.words) == ("passages", len(nll))
        assert ours.nll_sum == pytest.approx(sum(nll), rel=1e-4)
    assert (accuracy.low, accuracy.high) == ratio_interval(np.array(right, float), np.ones(len(right)))
    low, high = ratio_interval(np.array(nll), np.ones(len(nll)))
    assert (perplexity.low, perplexity.high) == pytest.approx((math.exp(low), math.exp(high)), rel=1e-4)


@pytest.mark.slow
def test_both_targets_are_pytorchs(folder: Path, model, tokenizer: Tokenizer, passages: list[str]) -> None:
    each = [by_pytorch(model, tokenizer, passage) for passage in passages]
    n_tokens = [len(nll) for nll, _ in each]
    word_right = [bool(right.all()) for _, right in each]
    token_right = [bool(right[-1]) for _, right in each]
    assert max(n_tokens) > 2
    assert 0 < sum(word_right) < len(each)
    for scorer in (jax_scorer(folder), TorchScorer(str(folder))):
        found = measure_lambada(scorer, tokenizer, passages)
        assert [figure.protocol for figure in found] == [
            f"{what}[{target}]" for target in ("last_word", "last_token") for what in ("perplexity", "accuracy")
        ]
        check(*found[:2], [float(nll.sum()) for nll, _ in each], word_right)
        check(*found[2:], [float(nll[-1]) for nll, _ in each], token_right)
        assert [figure.tokens for figure in found] == [sum(n_tokens)] * 2 + [len(each)] * 2
        assert {figure.bytes for figure in found} == {sum(len(text.split(" ")[-1].encode()) for text in passages)}


class OnlyTheLastToken:
    """Guesses the last token of each text and none before it; every token has 2 nats."""

    context = 12

    def score(self, texts: Sequence[Text]) -> Iterator[tuple[int, Scores]]:
        for number, text in enumerate(texts):
            n = len(text.ids) - text.first
            yield number, Scores(np.full(n, 2.0, np.float32), np.arange(n) == n - 1)


def test_a_last_word_of_several_tokens_by_hand(tokenizer: Tokenizer) -> None:
    assert [len(tokenizer.encode(word)) for word in (" words", " incomprehensibilities")] == [1, 3]
    found = measure_lambada(OnlyTheLastToken(), tokenizer, ["two words", "such incomprehensibilities"])
    assert [figure.value for figure in found] == pytest.approx([math.exp(4), 0.5, math.exp(2), 1.0])
    assert [figure.nll_sum for figure in found] == [8.0, 8.0, 4.0, 4.0]


@pytest.mark.slow
def test_batches_and_devices_change_nothing(sep_run, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(scorer: Scorer) -> list[float]:
        return [
            value for figure in measure_lambada(scorer, tokenizer, PASSAGES) for value in (figure.value, figure.nll_sum)
        ]

    expected = figures(jax_scorer(sep_run.hf))
    assert figures(jax_scorer(sep_run.hf, batch_size=16)) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(scoring, "Pmapped", lambda: Pmapped(jax.devices()[:1]))
    assert figures(jax_scorer(sep_run.hf, batch_size=1)) == pytest.approx(expected, rel=1e-5)
    assert figures(jax_scorer(sep_run.hf, batch_size=3)) == pytest.approx(expected, rel=1e-5)


def test_passages_are_read(tmp_path: Path) -> None:
    file = tmp_path / "l.jsonl"
    texts = ["one\u2028two three", "four five "]
    file.write_text("".join(json.dumps({"text": text, "domain": None}, ensure_ascii=False) + "\n\n" for text in texts))
    assert read_passages(f"lambada:{file}") == ["one\u2028two three", "four five"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "{} holds no passage; give LAMBADA's test set as JSON Lines"),
        ("\n \n", "{} holds no passage"),
        ("two words\n", "{} line 1: expected an object with the field text"),
        ('{"text": "a b"}\n{"txt": "a b"}\n', "{} line 2: expected an object with the field text"),
        ('{"text": "a b"}\n\n["a b"]\n', "{} line 3: expected an object with the field text"),
        ('{"text": ["a", "b"]}', '{} line 1: the field text is ["a", "b"]; it must be a string'),
        ('{"text": null}', "{} line 1: the field text is null; it must be a string"),
        ('{"text": " word "}', "{} line 1: a passage is two words or more with a space between, not 'word'"),
        ('{"text": "one\\ntwo"}', "{} line 1: a passage is two words or more"),
        ('{"text": ""}', "{} line 1: a passage is two words or more"),
        ('{"text": "a b"}\n{"text": "a b \\ud800c"}', "{} line 2: '\\ud800' is half a surrogate pair and no character"),
    ],
)
def test_a_bad_line_is_named(lines: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "l.jsonl"
    file.write_text(lines)
    with pytest.raises(UserError) as error:
        read_passages(f"lambada:{file}")
    assert message.format(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_last_word_of_more_tokens_than_fit_is_named(sep_run, tokenizer: Tokenizer) -> None:
    word = "".join(chr(0x4E00 + 37 * n) for n in range(40))
    with pytest.raises(UserError, match=r"passage 2: its last word is \d+ tokens of the tokenizer gpt2; 1 to 61 can"):
        measure_lambada(jax_scorer(sep_run.hf), tokenizer, ["a b", f"what is {word}"])


def test_real_passages(sep_run, tokenizer: Tokenizer) -> None:
    if not REAL.is_file():
        pytest.skip("shared/data/lambada is absent")
    passages = read_passages(f"lambada:{REAL}")
    assert len(passages) == 5153  # as Paperno et al. 2016 count the test set
    chosen = passages[::640]
    model = GPT2LMHeadModel.from_pretrained(sep_run.hf, dtype=torch.float32).eval()
    each = [by_pytorch(model, tokenizer, passage) for passage in chosen]
    found = measure_lambada(jax_scorer(sep_run.hf), tokenizer, chosen)
    check(*found[:2], [float(nll.sum()) for nll, _ in each], [bool(right.all()) for _, right in each])
    check(*found[2:], [float(nll[-1]) for nll, _ in each], [bool(right[-1]) for _, right in each])
