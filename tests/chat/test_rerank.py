"""The best of several replies, by scores that are computed once more by hand."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_bots import Scripted, make_folder
from transformers import GPT2LMHeadModel

from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.rerank import Candidates, own_scores, reverse_scores
from jaxgpt.chat.torch_engine import TorchEngine
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.errors import UserError

TURNS = [Turn("hello there", 0), Turn("how are you?", 1), Turn("fine, and you?", 0)]
REPLIES = ["very nice", "I like apples", "no"]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TorchEngine]]:
    """A model and its reverse for each format, the reverse one under `reverse-NAME`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("rerank")
    kinds = {"tags": "none", "sep": "types", "eos": "table"}
    names = {name: roles for kind, roles in kinds.items() for name in (kind, f"reverse-{kind}")}
    yield {
        name: TorchEngine(make_folder(root / name, name.removeprefix("reverse-"), roles, seed, positions=61))
        for seed, (name, roles) in enumerate(names.items())
    }
    torch.set_num_threads(threads)


def log_probs(engine: TorchEngine, folder_model: GPT2LMHeadModel, ids: list[int], roles: list[int]) -> np.ndarray:
    """log p of each id but the first, given those before it."""
    base = 0 if engine.cfg.use_token_types else engine.cfg.vocab_size
    types = torch.tensor([[base + int(role) for role in roles]])
    plain = not (engine.cfg.use_token_types or engine.cfg.use_role_table)
    with torch.no_grad():
        logits = folder_model(torch.tensor([ids]), token_type_ids=None if plain else types).logits[0]
    logs = logits[:-1, : engine.cfg.vocab_size].double().log_softmax(-1)
    return logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


# The reply and the turns before it backwards, as their ids and roles stand in pages built with --reverse.
def written(engine: TorchEngine, name: str, reply: str) -> tuple[list[int], list[int], int]:
    """Ids, roles, and the number of ids up to the end of the reply."""
    encode, texts = engine.tokenizer.encode, [reply, *(turn.text for turn in reversed(TURNS))]
    ids: list[int] = []
    roles: list[int] = []
    ends: list[int] = []
    for number, text in enumerate(texts):
        role = number % 2
        if name == "tags":
            turn = encode(f"{'AB'[role]}:{text}\n\n\n")
        elif name == "eos":
            turn = [*encode(text), engine.tokenizer.eos_token_id]
        else:  # a <sep> before each turn, with that turn's role
            turn = [engine.tokenizer.token_id("<sep>"), *encode(text)]
        ids += turn
        roles += [role] * len(turn)
        ends.append(len(ids))
    if name == "sep":
        ids.append(engine.tokenizer.token_id("<sep>"))
        roles.append(len(texts) % 2)
        return ids, roles, ends[0] + 1  # the <sep> that ends the reply is the reply's
    return ids, roles, ends[0]


@pytest.mark.parametrize("name", FORMATS)
def test_the_score_of_the_reverse_model_by_hand(engines: dict[str, TorchEngine], name: str) -> None:
    reverse = engines[f"reverse-{name}"]
    expected = []
    for reply in REPLIES:
        ids, roles, end = written(reverse, name, reply)
        assert len(ids) <= 61
        expected.append(log_probs(reverse, reverse._model, ids, roles)[end - 1 :].mean())
    np.testing.assert_allclose(reverse_scores(reverse, TURNS, REPLIES), expected, rtol=1e-5)


def test_all_replies_are_asked_about_the_same_last_turns(engines: dict[str, TorchEngine]) -> None:
    reverse = engines["reverse-tags"]
    encode = reverse.tokenizer.encode
    replies = ["very nice", "I like apples and the weather very much, and you? I like it" + ", and you?" * 4]
    last, before = encode("B:fine, and you?\n\n\n"), encode("A:how are you?\n\n\n")
    room = 61 - len(encode(f"A:{replies[1]}\n\n\n"))
    assert len(last) + len(before) <= room < len(last) + len(before) + len(encode("B:hello there\n\n\n"))
    expected = []
    for reply in replies:
        own = encode(f"A:{reply}\n\n\n")
        ids = [*own, *last, *before]
        expected.append(log_probs(reverse, reverse._model, ids, [0] * len(ids))[len(own) - 1 :].mean())
    np.testing.assert_allclose(reverse_scores(reverse, TURNS, replies), expected, rtol=1e-5)
    # A last turn that does not fit is cut at its right.
    long = [Turn("apples " * 50, 0)]
    own = encode("A:no\n\n\n")
    ids = [*own, *encode(f"B:{long[0].text}\n\n\n")][:61]
    one = log_probs(reverse, reverse._model, ids, [0] * 61)[len(own) - 1 :].mean()
    np.testing.assert_allclose(reverse_scores(reverse, long, ["no"]), [one], rtol=1e-5)
    with pytest.raises(UserError, match="a reply fills the n_positions 61 of --reverse_model; lower --max_new_tokens"):
        reverse_scores(reverse, TURNS, ["no", "apples " * 80])


@pytest.mark.parametrize(("name", "around"), [("eos", 1), ("tags", 4), ("sep", 2)])
def test_the_longest_reply_that_leaves_room_for_what_was_said(
    engines: dict[str, TorchEngine], name: str, around: int
) -> None:
    reverse = engines[f"reverse-{name}"]
    longest = 60 - around
    reply = "bx" * longest
    assert len(reverse.tokenizer.encode(reply)) == 2 * longest
    Candidates(2, reverse).check_room(longest)
    assert all(np.isfinite(reverse_scores(reverse, TURNS, [reply[:longest], "no"])))
    with pytest.raises(UserError, match="a reply fills the n_positions 61"):
        reverse_scores(reverse, TURNS, [reply[: longest + 1], "no"])
    with pytest.raises(
        UserError,
        match=rf"--max_new_tokens {longest + 1} and the {around} tokens .* n_positions 61 of --reverse_model; try 30",
    ):
        Candidates(2, reverse).check_room(longest + 1)
    Candidates(2).check_room(1000)


@pytest.mark.parametrize("name", FORMATS)
def test_the_own_score_by_hand(engines: dict[str, TorchEngine], name: str) -> None:
    engine = engines[name]
    prompt = engine.format.prompt(Conversation(tuple(TURNS)), 1, engine.tokenizer)
    stop = engine.format.stop_ids(engine.tokenizer)
    replies = [[*engine.tokenizer.encode(text), *stop] for text in REPLIES]
    expected = [
        log_probs(engine, engine._model, [*prompt.ids, *reply], [*prompt.roles, *[1] * len(reply)])[
            len(prompt.ids) - 1 :
        ].mean()
        for reply in replies
    ]
    np.testing.assert_allclose(own_scores(engine, prompt, replies), expected, rtol=1e-5)


@pytest.mark.parametrize("with_reverse", [False, True])
def test_the_bot_says_the_best_of_them(engines: dict[str, TorchEngine], with_reverse: bool) -> None:
    engine, reverse = engines["tags"], engines["reverse-tags"] if with_reverse else None
    bot = Bot(engine, Decoding(max_new_tokens=7, seed=5), candidates=Candidates(6, reverse))
    said = "".join(bot.stream("hello there"))

    prompt = engine.format.prompt(Conversation((TURNS[0],)), 1, engine.tokenizer)
    drawn: list[list[list[int]]] = []
    draw = engine.draw
    spying = Bot(engine, Decoding(max_new_tokens=7, seed=5), candidates=Candidates(6, reverse))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
        assert spying.reply("hello there") == said
    (replies,) = drawn
    texts = [spying._prompts.visible(ids).rstrip() for ids in replies]
    assert len(set(texts)) == 6
    scores = reverse_scores(reverse, [TURNS[0]], texts) if reverse else own_scores(engine, prompt, replies)
    assert said == texts[int(np.argmax(scores))]
    again = "".join(bot.retry())
    assert again != said
    assert bot.turns == [Turn("hello there", 0), Turn(again, 1)]


def test_the_scores_choose() -> None:
    engine = Scripted("a very long reply", "no", "a long reply")  # the scripted likelihood is higher for fewer tokens
    assert Bot(engine, Decoding(), candidates=Candidates(3)).reply("hello") == "no"


def test_what_does_not_fit_together_is_refused(engines: dict[str, TorchEngine]) -> None:
    with pytest.raises(UserError, match="--candidates is 1; it must be 2 or more"):
        Candidates(1)
    with pytest.raises(UserError, match="--reverse_model has dialogue_format sep, --model has tags"):
        Bot(engines["tags"], Decoding(), candidates=Candidates(2, engines["reverse-sep"]))
    other = Scripted()
    other.tokenizer = other.tokenizer.with_tokens(["<new>"])
    with pytest.raises(UserError, match=r"--reverse_model has tokenizer [0-9a-f]{12}, --model has [0-9a-f]{12}"):
        Bot(engines["tags"], Decoding(), candidates=Candidates(2, other))
    bot = Bot(engines["tags"], Decoding(), candidates=Candidates(2))
    with pytest.raises(UserError, match="--candidates 2 are drawn by chance, but --temperature is 0"):
        bot.decoding = Decoding(temperature=0)
