"""The bot: prompted as trained, streamed, cut where turns begin, reproducible, and polite about mistakes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bots import Scripted, encoded, make_folder

from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding, History
from jaxgpt.chat.engine import Limits
from jaxgpt.chat.jax_engine import JaxEngine
from jaxgpt.chat.torch_engine import TorchEngine
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

PLAIN = Decoding(max_new_tokens=19)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of small products wait for each other most of the time
    root = tmp_path_factory.mktemp("bots")
    yield {name: make_folder(root / name, name, "types" if name == "sep" else "none") for name in FORMATS}
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", FORMATS)
def test_a_reply_is_text_and_the_pieces_are_the_reply(folders: dict[str, Path], name: str) -> None:
    bot = Bot(TorchEngine(folders[name]), Decoding(max_new_tokens=7, seed=3))
    for text in ("hello", "and you?"):
        pieces = list(bot.stream(f" {text} "))
        reply = bot.turns[-1].text
        assert "".join(pieces) == reply == reply.strip()
        assert reply
        assert bot.turns[-2:] == [Turn(text, 0), Turn(reply, 1)]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("eos", "hello<|endoftext|>", "fine<|endoftext|>and you?<|endoftext|>"),
        ("tags", "A:hello\n\n\nB:", "fine\n\n\nA:and you?\n\n\nB:"),
        ("sep", "<sep>hello<sep>", "fine<sep>and you?<sep>"),
    ],
)
def test_the_model_gets_the_training_format(name: str, first: str, second: str) -> None:
    engine = Scripted(" fine ", "good", format_name=name)
    bot = Bot(engine, PLAIN)
    assert [bot.reply(" hello"), bot.reply("and you?\n")] == ["fine", "good"]
    assert engine.seen == [first, first + second]
    limits = engine.asked[0][1]
    assert list(limits.stop_ids) == engine.format.stop_ids(engine.tokenizer)
    assert limits.max_new_tokens == 19


def test_the_prompt_is_a_prefix_of_training() -> None:
    tokenizer = load_tokenizer("gpt2").with_tokens(["<sep>"])
    before, reply = ["hello", "hi", "how are you?"], "fine"
    for dialogue_format in FORMATS.values():
        whole = Conversation.alternating([*before, reply])
        ids = [tokenizer.encode(dialogue_format.turn_text(turn)) for turn in whole.turns]
        trained = dialogue_format.join(whole, ids, tokenizer)
        prompt = dialogue_format.prompt(Conversation.alternating(before), 1, tokenizer)
        np.testing.assert_array_equal(prompt.ids, trained.ids[: len(prompt.ids)])
        np.testing.assert_array_equal(prompt.roles, trained.roles[: len(prompt.ids)])


def test_white_space_and_half_characters_wait() -> None:
    bot = Bot(Scripted(" \n well\n\n now 🤖 é"), PLAIN)
    pieces = list(bot.stream("hello"))
    assert "".join(pieces) == bot.turns[1].text == "well\n\n now 🤖 é"
    assert not any(piece[-1] in " \n\N{REPLACEMENT CHARACTER}" for piece in pieces)
    assert len(pieces) > 5


def test_a_reply_never_begins_with_nothing_to_read() -> None:
    engine = Scripted("fine")
    Bot(engine, PLAIN).reply("hello")
    forbidden = engine.asked[0][1].not_first
    ids = range(engine.tokenizer.vocab_size)
    blank = {id_ for id_ in ids if engine.tokenizer.decode([id_]) in (" ", "\n", "\t", "\r", "\n\n", "\x0b", "\x0c")}
    assert {*blank, engine.tokenizer.eos_token_id} <= set(forbidden)
    assert not {*engine.tokenizer.encode("Hello!")} & set(forbidden)
    assert len(set(forbidden)) < 20


def texts(prompt: str) -> list[str]:
    return [turn.removeprefix("A:").removeprefix("B:") for turn in prompt.split("\n\n\n")[:-1]]


def test_old_turns_leave_when_the_room_is_full() -> None:
    engine = Scripted(*["fine"] * 3, positions=101)
    notes: list[str] = []
    bot = Bot(engine, PLAIN, note=notes.append)
    said = [f"{'question' if n % 2 == 0 else 'answer'} {n}" for n in range(24)]
    bot.turns = [Turn(text, n % 2) for n, text in enumerate(said)]
    bot.reply("the last")
    kept = texts(engine.seen[0])
    assert engine.seen[0].startswith(("A:question", "B:answer"))
    assert engine.seen[0].endswith("\n\n\nB:")
    assert [*said, "the last"][-len(kept) :] == kept
    # One more turn would not have fitted.
    encode = engine.tokenizer.encode
    length = len(encode(engine.seen[0]))
    earlier = [*said, "the last"][-len(kept) - 1]
    assert length <= 101 - 19 < length + len(encode(f"A:{earlier}\n\n\n"))
    bot.reply("once more")
    assert notes == ["the conversation no longer fits the model's 101 tokens; its first turns are left out"]
    assert len(bot.turns) == 28  # nothing is forgotten by the bot itself


def test_a_single_turn_that_is_too_long_is_cut_at_its_left() -> None:
    engine = Scripted("fine", "fine", "fine", positions=101)
    notes: list[str] = []
    bot = Bot(engine, PLAIN, note=notes.append)
    bot.reply("well " * 100 + "the end")
    assert engine.seen[0].endswith("well the end\n\n\nB:")
    assert len(engine.tokenizer.encode(engine.seen[0])) == 101 - 19
    assert notes == ["your message is longer than the 82 tokens there is room for; its beginning is left out"]
    bot.reply("short")  # the first does not fit any more
    assert texts(engine.seen[1]) == ["fine", "short"]
    bot.restart()
    bot.reply("well " * 100)
    assert len(notes) == 3  # said again in a new conversation


@pytest.mark.parametrize("name", FORMATS)
def test_the_history_window_in_turns_and_tokens(name: str) -> None:
    engine = Scripted(*["fine"] * 9, format_name=name)
    said = ["one apple", "two apples", "three", "four"]
    turns = [Turn(text, n % 2) for n, text in enumerate(said)]

    def prompt(history: History, notes: list[str]) -> list[int]:
        bot = Bot(engine, PLAIN, history, note=notes.append)
        bot.turns = list(turns)
        bot.reply("five")
        return (
            engine.tokenizer.encode(engine.seen[-1]) if name == "tags" else bot._prompt(bot.turns[:-1])[0].ids.tolist()
        )

    notes: list[str] = []
    for kept in (1, 2, 3, 5):
        last = tuple([*turns, Turn("five", 0)][-kept:])
        expected = engine.format.prompt(Conversation(last), 1, engine.tokenizer).ids.tolist()
        assert prompt(History(turns=kept), notes) == expected
        assert prompt(History(tokens=len(expected)), notes) == expected
        engine.replies += ["fine"] * 2
    assert prompt(History(), notes) == expected
    assert notes == []  # it was asked for


def test_a_seed_decides_and_a_retry_draws_anew(folders: dict[str, Path]) -> None:
    engine, seeded = TorchEngine(folders["tags"]), Decoding(max_new_tokens=7, seed=3)
    bot = Bot(engine, seeded)
    first, second = bot.reply("hello"), bot.reply("hello")
    list(bot.retry())
    third = bot.turns[-1].text
    list(bot.retry())
    fourth = bot.turns[-1].text
    assert len({first, second, third, fourth}) == 4
    assert bot.turns == [Turn("hello", 0), Turn(first, 1), Turn("hello", 0), Turn(fourth, 1)]
    # The same steps on another engine, with a detour that leaves no trace.
    again = Bot(TorchEngine(folders["tags"]), seeded)
    again.reply("something else")
    assert again.undo()
    assert [again.reply("hello"), again.reply("hello")] == [first, second]
    "".join(again.retry())
    assert "".join(again.retry()) == fourth
    again.undo()
    assert again.reply("hello") == second
    again.restart()
    assert again.reply("hello") == first
    assert Bot(engine, Decoding(max_new_tokens=7, seed=4)).reply("hello") != first


def test_it_draws_by_default(folders: dict[str, Path]) -> None:
    assert Decoding().draws
    engine = TorchEngine(folders["tags"])
    assert len({Bot(engine, Decoding(max_new_tokens=9)).reply("hello") for _ in range(4)}) > 1


def test_undo_and_restart() -> None:
    bot = Bot(Scripted("one", "two", "three"), PLAIN)
    assert not bot.undo()
    bot.reply("first")
    bot.reply("second")
    assert bot.undo()
    assert bot.turns == [Turn("first", 0), Turn("one", 1)]
    bot.reply("third")
    bot.restart()
    assert bot.turns == []
    with pytest.raises(UserError, match="there is no reply to try again"):
        bot.retry()
    with pytest.raises(UserError, match="there is nothing to reply to"):
        bot.stream(" \n")


def test_a_reply_that_stops_half_way_changes_nothing() -> None:
    engine = Scripted("one", None, "a long reply", None, "other")
    bot = Bot(engine, PLAIN)
    bot.reply("first")
    before = list(bot.turns)
    with pytest.raises(KeyboardInterrupt):
        list(bot.stream("second"))
    assert bot.turns == before
    pieces = bot.stream("second")
    assert next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert bot.turns == before
    assert engine.closed == 3
    with pytest.raises(KeyboardInterrupt):
        list(bot.retry())
    assert bot.turns == before
    assert "".join(bot.retry()) == "other"
    assert bot.turns == [Turn("first", 0), Turn("other", 1)]
    # Stopped retries don't count.
    assert [limits.draw for _, limits in engine.asked] == [(1, 0), (3, 0), (3, 0), (1, 1), (1, 1)]


def test_decoding_may_change_between_replies() -> None:
    engine = Scripted("one", "two")
    bot = Bot(engine, PLAIN)
    bot.reply("first")
    bot.decoding = Decoding(temperature=0.5, max_new_tokens=None)
    bot.reply("second")
    assert engine.asked[1][0].temperature == 0.5
    assert engine.asked[1][1].max_new_tokens == 100  # half of the positions
    with pytest.raises(
        UserError, match="--max_new_tokens 200 leaves no room for a prompt in the model's n_positions 200"
    ):
        bot.decoding = Decoding(max_new_tokens=200)
    assert bot.decoding.temperature == 0.5


def test_values_that_make_no_sense_are_refused() -> None:
    for wrong, message in {
        "temperature": (-1, "be 0 (the likeliest), or from 0.001 upwards"),
        "top_k": (-1, "be 0 (all) or more"),
        "top_p": (0, "lie in (0, 1]"),
        "min_p": (1.5, "lie in [0, 1]"),
        "repetition_penalty": (0, "be above 0"),
        "no_repeat_ngram_size": (-2, "be 0 (none) or more"),
        "num_beams": (0, "be 1 (none) or more"),
        "length_penalty": (float("nan"), "be a finite number"),
        "max_new_tokens": (0, "be 1 or more"),
        "seed": (-1, "be 0 or more"),
    }.items():
        value, rule = message
        with pytest.raises(UserError) as caught:
            Decoding(**{wrong: value})
        assert str(caught.value) == f"--{wrong} is {value}; it must {rule}"
    with pytest.raises(UserError, match=r"--temperature is nan"):
        Decoding(temperature=float("nan"))
    with pytest.raises(UserError, match=r"--history\.turns is -1"):
        History(turns=-1)
    with pytest.raises(UserError, match=r"--history\.tokens is -1"):
        History(tokens=-1)


@pytest.mark.slow
def test_beams_that_stop_early(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "eos", seed=1)
    engines, beams = (TorchEngine(folder), JaxEngine(folder)), {"num_beams": 3, "length_penalty": 2.0}
    prompt = encoded(engines[0].tokenizer, "eos", "hello there", "how are you?", "fine, and what about you?")
    free = list(engines[0].stream(prompt, Decoding(**beams), Limits(19, (301, 302))))
    limits, said = Limits(19, (free[3],)), {}
    for early in (False, True):
        decoding = Decoding(**beams, early_stopping=early)
        said[early], again = (list(engine.stream(prompt, decoding, limits)) for engine in engines)
        assert said[early] == again
    assert len(said[True]) < len(said[False])
