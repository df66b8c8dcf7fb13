"""Replies in batches: those of the bot, of scores computed once more, and the same in whatever batch they are."""

from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_bots import make_folder

from jaxgpt.chat.answering import Answerer
from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.jax_engine import JaxEngine
from jaxgpt.chat.jax_reader import JaxReader
from jaxgpt.chat.rerank import Candidates, own_scores, reverse_scores
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import logits
from jaxgpt.train.models import Model, load_model

SAID = ["hello there", "fine, and you?", "I like apples", "it is nice", "what about the weather?", "how are you?"]
GREEDY = Decoding(temperature=0, max_new_tokens=9)
DRAWN = Decoding(temperature=1.5, top_p=1.0, max_new_tokens=7, seed=3)


def context(*texts: str) -> list[Turn]:
    return [Turn(text, n % 2) for n, text in enumerate(texts)]


# Ending with role 0; the first two are longer than the model takes. Few lengths, since each is compiled.
CONTEXTS = [context(*(SAID * 3)[start : start + n]) for start, n in enumerate([15, 13, 1, 1, 1])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("answering")
    kinds = {"tags": "none", "sep": "types", "eos": "table"}
    made = {name: make_folder(root / name, name, roles, seed) for seed, (name, roles) in enumerate(kinds.items())}
    return {**made, "reverse-tags": make_folder(root / "reverse", "tags", seed=7)}


@lru_cache
def model_of(folder: Path) -> Model:
    return load_model(folder)


def answerer(folder: Path, decoding: Decoding, batch_size: int = 2, candidates: Candidates | None = None) -> Answerer:
    model = model_of(folder)
    return Answerer(model, FORMATS[model.dialogue_format or "tags"], decoding, candidates, batch_size)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "more"),
    [("sep", {"repetition_penalty": 1.3}), ("tags", {"num_beams": 2})],
)
def test_what_chance_does_not_decide_the_bot_says_too(folders: dict[str, Path], name: str, more: dict) -> None:
    decoding = Decoding(temperature=0, max_new_tokens=9, **more)
    engine, notes = JaxEngine(folders[name]), list[str]()
    expected = []
    for turns in CONTEXTS:
        bot = Bot(engine, decoding, note=notes.append)
        bot.turns = turns[:-1]
        expected.append(bot.reply(turns[-1].text))
    assert any("first turns are left out" in note for note in notes)
    assert len(set(expected)) > 3
    assert answerer(folders[name], decoding).answer(CONTEXTS) == expected


def test_the_likeliest_ids_by_the_whole_model(folders: dict[str, Path]) -> None:
    model = model_of(folders["tags"])
    tokenizer, (turn,) = model.tokenizer, CONTEXTS[3]
    said, again = answerer(folders["tags"], GREEDY).answer([[turn], [turn]], role=1)
    ids = tokenizer.encode(f"A:{turn.text}\n\n\nB:")
    begin, blank = len(ids), [id_ for id_ in range(tokenizer.vocab_size) if not tokenizer.decode([id_]).strip()]
    whole = jax.jit(lambda ids: logits(model.cfg, model.params, ids))
    for number in range(9):
        padded = jnp.array([[*ids, *[0] * (60 - len(ids))]])
        found = np.array(whole(padded)[0, len(ids) - 1])
        if number == 0:
            found[[*blank, tokenizer.eos_token_id]] = -np.inf
        ids.append(int(found.argmax()))
        if ids[-1] == tokenizer.eos_token_id or tokenizer.decode(ids[begin:]).endswith("\n\n\n"):
            break
    assert len(said) > 3
    assert said == again
    assert said == tokenizer.decode(ids[begin:]).replace("<|endoftext|>", "").strip()


def test_a_drawn_reply_depends_on_its_number_and_the_seed(folders: dict[str, Path]) -> None:
    together = answerer(folders["tags"], DRAWN, batch_size=5).answer(CONTEXTS)
    assert answerer(folders["tags"], DRAWN, batch_size=2).answer(CONTEXTS) == together
    # Other contexts around them change nothing, another place in the list does.
    assert answerer(folders["tags"], DRAWN).answer(CONTEXTS[:3]) == together[:3]
    same = answerer(folders["tags"], DRAWN, batch_size=5).answer([CONTEXTS[0]] * 5)
    assert same[0] == together[0]
    assert len(set(same)) > 3
    other = Decoding(temperature=1.5, top_p=1.0, max_new_tokens=7, seed=4)
    assert answerer(folders["tags"], other, batch_size=5).answer(CONTEXTS) != together
    free = answerer(folders["tags"], Decoding(temperature=1.5, top_p=1.0, max_new_tokens=7), batch_size=5)
    assert free.answer(CONTEXTS) != free.answer(CONTEXTS)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_what_is_done_is_left_out_and_changes_no_other_reply(folders: dict[str, Path], batch_size: int) -> None:
    together = answerer(folders["tags"], DRAWN).answer(CONTEXTS)
    first, *others = answerer(folders["tags"], DRAWN).batches(CONTEXTS)
    assert sorted(first) == [0, 1]  # the longest
    rest = list(answerer(folders["tags"], DRAWN, batch_size).batches(CONTEXTS, done=frozenset(first)))
    if batch_size == 2:
        assert rest == others
    assert first | {number: reply for batch in rest for number, reply in batch.items()} == dict(enumerate(together))
    assert list(answerer(folders["tags"], DRAWN).batches(CONTEXTS, done=range(5))) == []


@pytest.mark.parametrize("with_reverse", [False, True])
@pytest.mark.parametrize("role", [0, 1])
def test_the_best_of_the_candidates(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, with_reverse: bool, role: int
) -> None:
    model, written = model_of(folders["tags"]), FORMATS["tags"]
    reverse = JaxReader(model_of(folders["reverse-tags"]), written) if with_reverse else None
    contexts = [
        [Turn(turn.text, turn.role ^ 1 ^ role) for turn in turns] for turns in (CONTEXTS[0][2:5], CONTEXTS[0][:3])
    ]
    ours = Answerer(model, written, DRAWN, Candidates(4, reverse), batch_size=8)
    drawn: list[list[list[int]]] = []
    draw = ours._draw
    monkeypatch.setattr(ours, "_draw", lambda *args: drawn.extend(found := draw(*args)) or found)
    said = ours.answer(contexts, role)
    reader = JaxReader(model, written)
    # The longest context is drawn first.
    for turns, reply, ids in zip(contexts, said, drawn, strict=True):
        texts = [model.tokenizer.decode(row).replace("<|endoftext|>", "").strip() for row in ids]
        assert len(set(texts)) == 4
        prompt = written.prompt(Conversation(tuple(turns)), role, model.tokenizer)
        scores = reverse_scores(reverse, turns, texts, role) if reverse else own_scores(reader, prompt, ids, role)
        assert reply == texts[int(np.argmax(scores))]
    assert Answerer(model, written, DRAWN, Candidates(4, reverse), batch_size=1).answer(contexts, role) == said


def test_roles_reach_the_scores(folders: dict[str, Path]) -> None:
    """Of a reversed conversation the reply is always role 0, whoever gives it."""
    reverse = JaxReader(model_of(folders["sep"]), FORMATS["sep"])
    mirrored = [Turn(turn.text, 1 - turn.role) for turn in CONTEXTS[0]]
    replies = ["very nice", "no"]
    assert reverse_scores(reverse, mirrored, replies, 0) == reverse_scores(reverse, CONTEXTS[0], replies, 1)


def test_a_model_without_a_format_of_its_own(folders: dict[str, Path]) -> None:
    """As a GPT-2 from outside: the format is given."""
    found = model_of(folders["eos"])
    model = Model(found.cfg, found.params, found.tokenizer, None, None)
    said = Answerer(model, FORMATS["eos"], GREEDY, batch_size=2).answer(CONTEXTS[2:])
    assert said == answerer(folders["eos"], GREEDY).answer(CONTEXTS[2:])


def test_nothing_to_answer_and_what_does_not_fit(folders: dict[str, Path]) -> None:
    assert answerer(folders["tags"], GREEDY).answer([]) == []
    with pytest.raises(UserError, match="context 2 has no turns"):
        answerer(folders["tags"], GREEDY).answer([context("hello"), []])
    with pytest.raises(UserError, match="--batch_size is 0; it must be 1 or more"):
        answerer(folders["tags"], GREEDY, batch_size=0)
    with pytest.raises(UserError, match="--max_new_tokens 97 leaves no room for a prompt"):
        answerer(folders["tags"], Decoding(max_new_tokens=97))
    with pytest.raises(UserError, match="--candidates 4 are drawn by chance, but --temperature is 0"):
        answerer(folders["tags"], GREEDY, candidates=Candidates(4))
    other = JaxReader(model_of(folders["sep"]), FORMATS["sep"])
    with pytest.raises(UserError, match="--reverse_model has dialogue_format sep, --model has tags"):
        answerer(folders["tags"], DRAWN, candidates=Candidates(4, other))
    same = JaxReader(model_of(folders["reverse-tags"]), FORMATS["tags"])
    with pytest.raises(UserError, match="--max_new_tokens 95 and the 4 tokens around a reply fill the n_positions 97"):
        answerer(folders["tags"], Decoding(max_new_tokens=95), candidates=Candidates(4, same))
