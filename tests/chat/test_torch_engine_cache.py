"""The PyTorch engine computes nothing twice, mixes no conversations, and survives being stopped."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_bots import encoded, make_folders, one_thread

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import Limits
from jaxgpt.chat.torch_engine import TorchEngine
from jaxgpt.data.dialogue import EncodedConversation

TEXTS = ("hello there", "how are you?", "fine, and what about you?")
STOP = (301, 302)  # hardly ever said
LIMITS = Limits(11, STOP, (0, 5, 17))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    with one_thread():
        yield make_folders(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def tags(folders: dict[str, Path]) -> TorchEngine:
    return TorchEngine(folders["tags"])


def count_inputs(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass through the model gets, from now on."""
    lengths: list[int] = []
    forward = engine._model.transformer.forward
    monkeypatch.setattr(
        engine._model.transformer, "forward", lambda ids, **kw: lengths.append(ids.shape[1]) or forward(ids, **kw)
    )
    return lengths


@pytest.mark.parametrize("name", ["tags", "sep", "table"])
def test_a_second_turn_computes_only_its_new_tokens(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, decoding = TorchEngine(folders[name]), Decoding(seed=1)
    first = encoded(engine.tokenizer, engine.format.name, TEXTS[0])
    said = list(engine.stream(first, decoding, LIMITS))
    # The conversation goes on with exactly the ids that were said.
    end = engine.format.stop_ids(engine.tokenizer)
    more = engine.tokenizer.encode("A:and you?") if name != "sep" else engine.tokenizer.encode("and you?")
    ids = np.array([*first.ids, *said, *end, *more, *end], np.int64)
    roles = np.array([*first.roles, *[1] * len(said), *[name != "sep"] * len(end), *[0] * len(more), *[1] * len(end)])
    second = EncodedConversation(ids, np.zeros(len(ids), np.float32), roles.astype(np.uint8), (0,))
    lengths = count_inputs(engine, monkeypatch)
    reply = list(engine.stream(second, decoding, LIMITS))
    # The last token said was never fed, since nothing came after it.
    assert lengths == [1 + len(end) + len(more) + len(end), *[1] * (len(reply) - 1)]
    assert reply == list(TorchEngine(folders[name]).stream(second, decoding, LIMITS))
    # The same prompt again costs one token; a shorter one, too.
    lengths.clear()
    assert len(list(engine.stream(second, decoding, Limits(1, STOP)))) == 1
    assert lengths == [1]
    lengths.clear()
    assert list(engine.stream(first, decoding, LIMITS)) == said
    assert lengths == [1] * len(said)


def test_another_role_is_another_prefix(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchEngine(folders["sep"])
    prompt = encoded(engine.tokenizer, "sep", *TEXTS)
    other = EncodedConversation(prompt.ids, prompt.weights, 1 - prompt.roles, prompt.starts)
    greedy = Decoding(temperature=0)
    said = list(engine.stream(prompt, greedy, LIMITS))
    lengths = count_inputs(engine, monkeypatch)
    assert list(engine.stream(other, greedy, LIMITS)) != said
    assert lengths[0] == len(prompt.ids)


def test_conversations_that_take_turns_do_not_mix(tags: TorchEngine, folders: dict[str, Path]) -> None:
    decoding = Decoding(seed=2)
    prompts = [encoded(tags.tokenizer, "tags", text) for text in ("hello", "the weather is nice")]
    alone = [list(TorchEngine(folders["tags"]).stream(prompt, decoding, LIMITS)) for prompt in prompts]
    both = zip(*(tags.stream(prompt, decoding, LIMITS) for prompt in prompts), strict=True)
    assert [list(ids) for ids in zip(*both, strict=True)] == alone


def test_what_was_stopped_half_way_leaves_no_trace(tags: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, decoding = encoded(tags.tokenizer, "tags", *TEXTS), Decoding(seed=2)
    whole = list(tags.stream(prompt, decoding, LIMITS))
    stream = tags.stream(prompt, decoding, LIMITS)
    assert [next(stream), next(stream)] == whole[:2]
    stream.close()  # type: ignore[attr-defined]
    assert list(tags.stream(prompt, decoding, LIMITS)) == whole

    block = tags._model.transformer.h[1]
    calls: Counter[str] = Counter()

    def interrupted(*args: Any, **kwargs: Any) -> None:
        calls["forward"] += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(block, "forward", interrupted)  # layer 0 has its keys then, layers 1 and 2 have not
    with pytest.raises(KeyboardInterrupt):
        next(tags.stream(prompt, decoding, LIMITS))
    assert calls["forward"] == 1
    monkeypatch.undo()
    assert list(tags.stream(prompt, decoding, LIMITS)) == whole


def test_replies_are_weighed_without_the_prompt_again(tags: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = encoded(tags.tokenizer, "tags", *TEXTS)
    replies = tags.draw(prompt, 3, Decoding(seed=0), LIMITS)
    lengths = count_inputs(tags, monkeypatch)
    ids = [np.array([*prompt.ids, *reply]) for reply in replies]
    weights = np.repeat(np.array([0, 1], np.float32), [len(prompt.ids), LIMITS.max_new_tokens])
    tags.mean_log_likelihood([EncodedConversation(one, weights, np.ones(len(one), np.uint8), (0,)) for one in ids])
    assert lengths == [1 + LIMITS.max_new_tokens] * 3
