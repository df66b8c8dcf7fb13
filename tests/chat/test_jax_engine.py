"""The JAX engine says what the PyTorch engine says, computes nothing twice, and survives being stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bots import encoded, make_folders

from jaxgpt.chat import jax_engine
from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import Limits, open_engine
from jaxgpt.chat.jax_engine import JaxEngine
from jaxgpt.chat.torch_engine import TorchEngine

pytestmark = pytest.mark.slow  # compiling
TEXTS = ("hello there", "how are you?", "fine, and what about you?")
LIMITS = Limits(11, (301, 302), (0, 5, 17))
GREEDY = Decoding(temperature=0)
DRAWN = Decoding(temperature=1.3, top_k=40, top_p=0.9, seed=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_folders(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def tags(folders: dict[str, Path]) -> JaxEngine:
    engine = open_engine("jax", folders["tags"])
    assert isinstance(engine, JaxEngine)
    return engine


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tags", {"temperature": 0}),
        ("sep", {"temperature": 0, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2}),
        ("table", {"temperature": 0}),
        ("tags", {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2, "early_stopping": True}),
    ],
    ids=str,
)
def test_it_says_what_the_torch_engine_says(folders: dict[str, Path], name: str, settings: dict[str, Any]) -> None:
    ours, theirs = JaxEngine(folders[name]), TorchEngine(folders[name])
    for texts in (TEXTS[:1], TEXTS):
        prompt = encoded(ours.tokenizer, ours.format.name, *texts)
        said = list(ours.stream(prompt, Decoding(**settings), LIMITS))
        assert said == list(theirs.stream(prompt, Decoding(**settings), LIMITS))
        assert len(said) > 3


def test_it_weighs_replies_as_the_torch_engine_does(folders: dict[str, Path]) -> None:
    ours, theirs = JaxEngine(folders["table"]), TorchEngine(folders["table"])
    conversations = [encoded(ours.tokenizer, "tags", *TEXTS[:n]) for n in (1, 3)]
    assert ours.mean_log_likelihood(conversations) == pytest.approx(theirs.mean_log_likelihood(conversations), rel=1e-5)


def test_a_second_turn_computes_only_its_new_tokens(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine, fresh = JaxEngine(folders["tags"]), JaxEngine(folders["tags"])
    filled: list[tuple[int, int]] = []
    fill = jax_engine.fill
    monkeypatch.setattr(jax_engine, "fill", lambda *args: filled.append((int(args[3]), args[4])) or fill(*args))
    prompt = encoded(engine.tokenizer, "tags", *TEXTS[:1])
    said = list(engine.stream(prompt, GREEDY, LIMITS))
    reply = engine.tokenizer.decode(said)
    longer = encoded(engine.tokenizer, "tags", TEXTS[0], reply, TEXTS[2])
    known = np.concatenate([prompt.ids, said])
    common = next((n for n, (a, b) in enumerate(zip(known, longer.ids, strict=False)) if a != b), len(known))
    again = list(engine.stream(longer, GREEDY, LIMITS))
    assert filled[0][0] == 0
    # All but the last of the known tokens are in the cache.
    assert filled[1][0] == min(common, len(known) - 1) > len(prompt.ids) - 1
    monkeypatch.undo()
    assert again == list(fresh.stream(longer, GREEDY, LIMITS))


def test_chance_depends_on_the_seed_alone(tags: JaxEngine) -> None:
    prompt, other = (encoded(tags.tokenizer, "tags", *texts) for texts in (TEXTS, TEXTS[:1]))
    said = list(tags.stream(prompt, DRAWN, LIMITS))
    four = tags.draw(prompt, 4, DRAWN, LIMITS)
    list(tags.stream(other, DRAWN, LIMITS))
    assert list(tags.stream(prompt, DRAWN, LIMITS)) == said
    assert tags.draw(prompt, 4, DRAWN, LIMITS) == four
    assert four[0] == said  # the first row of a batch is the reply that is drawn alone
    assert len({tuple(ids) for ids in four}) == 4
    third = Limits(11, (301, 302), (0, 5, 17), draw=(3, 1))
    assert list(tags.stream(prompt, DRAWN, third)) != said


def test_what_was_stopped_half_way_leaves_no_trace(tags: JaxEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = encoded(tags.tokenizer, "tags", *TEXTS)
    said = list(tags.stream(prompt, GREEDY, LIMITS))
    stream = tags.stream(prompt, GREEDY, LIMITS)
    assert [next(stream), next(stream), next(stream)] == said[:3]
    stream.close()  # type: ignore[attr-defined]
    assert list(tags.stream(prompt, GREEDY, LIMITS)) == said

    advance = jax_engine.advance
    calls = iter(range(99))

    def interrupted(*args: Any) -> Any:
        state = advance(*args)  # its argument is used up by now
        if next(calls) == 1:
            raise KeyboardInterrupt
        return state

    monkeypatch.setattr(jax_engine, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(tags.stream(prompt, GREEDY, LIMITS))
    monkeypatch.undo()
    assert list(tags.stream(prompt, GREEDY, LIMITS)) == said


def test_two_that_take_turns_do_not_mix(tags: JaxEngine) -> None:
    one, two = (encoded(tags.tokenizer, "tags", text) for text in ("hello there", "what about the weather?"))
    alone = [list(tags.stream(prompt, GREEDY, LIMITS)) for prompt in (one, two)]
    both = [tags.stream(prompt, GREEDY, LIMITS) for prompt in (one, two)]
    mixed: list[list[int]] = [[], []]
    for _ in range(LIMITS.max_new_tokens):
        for stream, said in zip(both, mixed, strict=True):
            said += [id_ for id_ in [next(stream, None)] if id_ is not None]
    assert mixed == alone


def test_a_bot_talks_with_it_until_the_window_slides(tags: JaxEngine, folders: dict[str, Path]) -> None:
    notes: list[str] = []
    decoding = Decoding(temperature=0, max_new_tokens=13)
    bot, other = (Bot(engine, decoding, note=notes.append) for engine in (tags, TorchEngine(folders["tags"])))
    for text in ("hello there", "how are you?", "what about the weather?", "it is nice", "and I like apples"):
        assert bot.reply(text) == other.reply(text)
    assert notes  # it no longer fits
