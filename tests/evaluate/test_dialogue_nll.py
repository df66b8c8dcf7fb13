"""Every figure of dialogue from a plain PyTorch loop, one piece of a conversation at a time, and from pages."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.data.dialogue import FORMATS, Conversation, LossOn, Turn, cut
from jaxgpt.errors import UserError
from jaxgpt.evaluate import dialogue_nll, scoring
from jaxgpt.evaluate.dialogue_nll import DialogueNll, Group, measure_dialogue
from jaxgpt.evaluate.intervals import ratio_interval
from jaxgpt.evaluate.perplexity import perplexity
from jaxgpt.evaluate.scoring import JaxScorer, Scorer, Scores, Text
from jaxgpt.train.models import Model, load_model
from jaxgpt.train.pmapped import Pmapped

SHORT = [
    Conversation.alternating(["hello there", "hi! how are you?"]),
    Conversation.alternating(["good morning", "and to you — naïve 🤖", "thanks"]),
    Conversation((Turn("first", 0), Turn("and once more", 0), Turn("now it is me", 1), Turn("fine", 0))),
    Conversation.alternating(["what is that", "it is an apple", "is it yours?", "yes, take it"]),
]
LONG = [
    Conversation.alternating([f"this is turn number {n}, and it has some words" for n in range(27)]),
    Conversation.alternating(["a short one", "one that goes on and on " * 30, "well", "so it is"]),
]
WEIGHTED = [
    Conversation((Turn("not this one", 0, 0.0), Turn("but this one", 1, 0.25), Turn("nor this", 0, 0.0))),
    Conversation((Turn("nothing", 0, 0.0), Turn("counts here", 1, 0.0))),
    Conversation.alternating(["alone"]),
    Conversation(()),
]
TALKS = SHORT + LONG + WEIGHTED
BIN = 16  # tokens, for groups by position: the model takes only 61


class Token(NamedTuple):
    """position: tokens before it in its piece."""

    talk: int
    turn: int
    role: int
    position: int
    nll: float


@pytest.fixture(params=["tags", "sep"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str, request: pytest.FixtureRequest) -> Model:
    return load_model(request.getfixturevalue(f"{name}_run").hf)


@pytest.fixture
def folder(name: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{name}_run").hf


def by_pytorch(folder: Path, model: Model, name: str, talks: list[Conversation]) -> list[Token]:
    """Every token that counts, one piece of a conversation at a time."""
    network = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    mark = {"tags": 0, "sep": 1}[name]  # special tokens before the first turn and behind each
    found = []
    for number, talk in enumerate(talks):
        if not talk.turns:
            continue
        texts = [model.tokenizer.encode(FORMATS[name].turn_text(turn)) for turn in talk.turns]
        turns = [n for n, ids in enumerate(texts) for _ in range(len(ids) + mark + (mark if n == 0 else 0))]
        whole = FORMATS[name].join(talk, texts, model.tokenizer)
        # Each token's own number goes through the cut as its weight, and comes out where it is predicted.
        numbered = replace(whole, weights=np.arange(len(turns), dtype=np.float32))
        for piece in cut(numbered, 62):
            ids, types = torch.tensor(piece.ids), torch.tensor(piece.roles.astype(np.int64))
            with torch.inference_mode():
                logits = network(ids[None, :-1], token_type_ids=types[None, :-1] if mark else None).logits[0].double()
            nll = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").numpy()
            for position in np.flatnonzero(piece.weights):
                turn = turns[int(piece.weights[position])]
                if talk.turns[turn].weight > 0:
                    found.append(Token(number, turn, talk.turns[turn].role, position, float(nll[position - 1])))
    return found


def measured(model: Model, name: str, talks: list[Conversation], scorer: Scorer) -> DialogueNll:
    return measure_dialogue(scorer, model.tokenizer, FORMATS[name], talks, model.cfg.use_token_types)


def check_groups(found: tuple[Group, ...], tokens: list[Token], name_of: Callable[[Token], str]) -> None:
    by_name: dict[str, list[float]] = {}
    for token in tokens:
        by_name.setdefault(name_of(token), []).append(token.nll)
    assert sorted(group.name for group in found) == sorted(by_name)
    for group in found:
        nll = by_name[group.name]
        assert group.tokens == len(nll)
        assert group.nll_sum == pytest.approx(sum(nll), rel=1e-4)
        assert group.perplexity == pytest.approx(math.exp(sum(nll) / len(nll)), rel=1e-4)


def turn_name(turn: int) -> str:
    return f"turn {turn + 1}" if turn < 19 else "turn 20 and later"


def position_name(position: int) -> str:
    return f"tokens {position // BIN * BIN} to {position // BIN * BIN + BIN - 1}"


@pytest.mark.slow
def test_every_figure_is_pytorchs(name: str, model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogue_nll, "_POSITIONS", BIN)
    tokens = by_pytorch(folder, model, name, TALKS)
    found = measured(model, name, TALKS, JaxScorer(model.cfg, model.params))

    counted = [talk for talk in TALKS if talk.turns]
    assert found.conversations == len(counted) == len(TALKS) - 1
    token, responses, word, bits = found.figures
    said = [[turn for turn in talk.turns if turn.weight > 0] for talk in counted]
    words = [sum(len(turn.text.split()) for turn in turns) for turns in said]
    n_bytes = [sum(len(turn.text.encode()) for turn in turns) for turns in said]
    nll = [sum(t.nll for t in tokens if t.talk == number) for number in range(len(counted))]
    n_tokens = [sum(t.talk == number for t in tokens) for number in range(len(counted))]
    total = sum(nll)
    assert n_tokens[-2] == 0  # of the conversation in which nothing counts

    assert [figure.protocol for figure in found.figures] == ["token", "token[responses]", "word", "bits_per_byte"]
    for figure in (token, word, bits):
        assert (figure.tokens, figure.words, figure.bytes) == (len(tokens), sum(words), sum(n_bytes))
        assert figure.nll_sum == pytest.approx(total, rel=1e-4)
        assert figure.units == "conversations"
        assert figure.low < figure.value < figure.high
    assert token.value == pytest.approx(math.exp(total / len(tokens)), rel=1e-4)
    assert word.value == pytest.approx(math.exp(total / sum(words)), rel=1e-4)
    assert bits.value == pytest.approx(total / math.log(2) / sum(n_bytes), rel=1e-4)
    any_tokens = np.array(n_tokens) > 0  # a conversation in which nothing counts is no unit
    interval = ratio_interval(np.array(nll)[any_tokens], np.array(n_tokens)[any_tokens])
    assert (token.low, token.high) == pytest.approx(tuple(map(math.exp, interval)), rel=1e-4)

    answers = [t.nll for t in tokens if t.role == 1]
    own = [turn.text for turns in said for turn in turns if turn.role == 1]
    assert responses.value == pytest.approx(math.exp(sum(answers) / len(answers)), rel=1e-4)
    assert (responses.tokens, responses.words) == (len(answers), sum(len(text.split()) for text in own))
    assert responses.bytes == sum(len(text.encode()) for text in own)

    means = [of_talk / n for of_talk, n in zip(nll, n_tokens, strict=True) if n]
    assert found.dialogue_mean == pytest.approx(sum(map(math.exp, means)) / len(means), rel=1e-4)
    assert found.sequence_mean == pytest.approx(math.exp(sum(means) / len(means)), rel=1e-4)
    check_groups(found.by_role, tokens, lambda t: f"role {t.role}")
    check_groups(found.by_turn, tokens, lambda t: turn_name(t.turn))
    check_groups(found.by_position, tokens, lambda t: position_name(t.position))
    assert len(found.by_turn) == 20
    assert len(found.by_position) == 4
    json.dumps(found.as_json())


def test_every_token_is_predicted_once(name: str, model: Model) -> None:
    """However long a conversation is: all tokens but the very first."""
    for talk in LONG:
        found = measured(model, name, [talk], Uniform())
        texts = [model.tokenizer.encode(FORMATS[name].turn_text(turn)) for turn in talk.turns]
        marks = len(texts) + 1 if name == "sep" else 0
        assert found.figures[0].tokens == sum(map(len, texts)) + marks - 1


class Uniform:
    """Every token has ln 3 nats; takes 20."""

    context = 20

    def score(self, texts: Sequence[Text]) -> Iterator[tuple[int, Scores]]:
        for number, text in enumerate(texts):
            assert 1 < len(text.ids) <= self.context
            n = len(text.ids) - text.first
            yield number, Scores(np.full(n, math.log(3), np.float32), np.zeros(n, bool))


def test_a_uniform_model_by_hand(tags_run) -> None:
    model = load_model(tags_run.hf)
    found = measured(model, "tags", [Conversation.alternating(["a b", "c", "d"])], Uniform())
    # "A", ":", "a", " b" and an end of 2 tokens; "B:c", the end; "A:d", the end: 16 tokens, the first is given.
    assert [group.tokens for group in found.by_turn] == [5, 5, 5]
    assert [(group.name, group.tokens) for group in found.by_role] == [("role 0", 10), ("role 1", 5)]
    token, responses, word, bits = found.figures
    assert (token.tokens, responses.tokens, word.words, bits.bytes) == (15, 5, 4, 5)
    assert token.value == responses.value == pytest.approx(3, rel=1e-6)
    assert word.value == pytest.approx(3 ** (15 / 4), rel=1e-6)
    assert bits.value == pytest.approx(15 * math.log2(3) / 5, rel=1e-6)
    assert token.low is None  # one conversation has no interval
    assert found.dialogue_mean == found.sequence_mean == pytest.approx(3, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("loss_on", ["all", "role1"])
def test_pages_say_the_same_where_nothing_is_cut(name: str, model: Model, loss_on: LossOn, tmp_path: Path) -> None:
    source = tmp_path / "talk.jsonl"
    lines = [[{"text": turn.text, "role": turn.role} for turn in talk.turns] for talk in SHORT]
    source.write_text("".join(json.dumps(turns) + "\n" for turns in lines))
    options = Options(
        source=[f"dialogue:{source}"], format=name, loss_on=loss_on, row_length=61, shards=1, valid_fraction=0.5
    )
    make(options, tmp_path / "pages", processes=1)
    pages = [perplexity(model, tmp_path / "pages", split) for split in ("train", "valid")]
    found = measured(model, name, SHORT, JaxScorer(model.cfg, model.params))
    figure = found.figures[0 if loss_on == "all" else 1]
    assert figure.nll_sum == pytest.approx(sum(of_split.token.nll_sum for of_split in pages), rel=1e-5)
    for kind in ("tokens", "words", "bytes"):
        assert getattr(figure, kind) == sum(getattr(of_split.token, kind) for of_split in pages)


@pytest.mark.slow
def test_batches_and_devices_change_nothing(sep_run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(sep_run.hf)

    def figures(scorer: JaxScorer) -> list[float]:
        found = measured(model, "sep", TALKS, scorer)
        groups = [*found.by_role, *found.by_turn, *found.by_position]
        return [figure.value for figure in found.figures] + [group.nll_sum for group in groups]

    expected = figures(JaxScorer(model.cfg, model.params))
    assert figures(JaxScorer(model.cfg, model.params, 16)) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(scoring, "Pmapped", lambda: Pmapped(jax.devices()[:1]))
    assert figures(JaxScorer(model.cfg, model.params, 1)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("talks", "n"), [([], 0), ([Conversation(())], 0), ([WEIGHTED[1]], 1)])
def test_nothing_to_predict_is_refused(tags_run, talks: list[Conversation], n: int) -> None:
    model = load_model(tags_run.hf)
    with pytest.raises(UserError, match=rf"^{n} conversations have no token that counts; give some with turns"):
        measured(model, "tags", talks, Uniform())
