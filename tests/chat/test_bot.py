"""The bot: prompted as trained, streamed, stopped by the turn's end, and polite about mistakes."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jaxgpt import cli
from jaxgpt.chat.bot import Bot, _Stop, _Stream, talk
from jaxgpt.chat.decoding import Decoding
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

SHORT = Decoding(max_new_tokens=7, seed=3)


@pytest.mark.parametrize("name", ["tags", "sep"])
def test_a_reply_is_text_and_the_pieces_are_the_reply(name: str, request: pytest.FixtureRequest) -> None:
    bot = Bot(request.getfixturevalue(f"{name}_run").hf, SHORT)
    pieces: list[str] = []
    reply = bot.reply("hello", pieces.append)
    assert reply.strip()
    assert "".join(pieces) == reply
    assert bot.turns == [Turn("hello", 0), Turn(reply, 1)]


def test_the_same_seed_says_the_same(tags_run) -> None:
    first, again = (Bot(tags_run.hf, SHORT).reply("hello") for _ in range(2))
    assert first == again
    other = Bot(tags_run.hf, Decoding(max_new_tokens=7, seed=4)).reply("hello")
    assert other != first


def test_it_samples_by_default(tags_run) -> None:
    bot = Bot(tags_run.hf, Decoding(max_new_tokens=7))
    replies = set()
    for _ in range(4):
        bot.restart()
        replies.add(bot.reply("hello"))
    assert len(replies) > 1


def test_the_model_gets_the_training_format(tags_run, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = Bot(tags_run.hf, SHORT)
    seen: list[list[int]] = []
    generate = bot._model.generate
    monkeypatch.setattr(bot._model, "generate", lambda ids, **kw: seen.append(ids[0].tolist()) or generate(ids, **kw))
    reply = bot.reply(" hello ")
    bot.reply("and you?")
    encode = bot._tokenizer.encode
    assert seen[0] == encode("A:hello\n\n\nB:")
    assert seen[1] == encode("A:hello\n\n\n") + encode(f"B:{reply}\n\n\n") + encode("A:and you?\n\n\nB:")


def test_old_turns_leave_when_the_room_is_full(tags_run) -> None:
    bot = Bot(tags_run.hf, SHORT)
    for number in range(12):
        bot.turns += [Turn(f"question {number}", 0), Turn(f"answer {number}", 1)]
    bot.turns.append(Turn("last", 0))
    prompt = bot._prompt()
    assert len(prompt.ids) <= 61 - 7
    text = bot._tokenizer.decode(prompt.ids)
    assert text.endswith("B:answer 11\n\n\nA:last\n\n\nB:")
    assert text.startswith(("A:question", "B:answer"))  # cut where a turn begins
    bot.turns = [Turn("word " * 100, 0)]
    assert len(bot._prompt().ids) == 61 - 7


def test_stop_needs_the_whole_end_of_a_turn() -> None:
    stop = _Stop([628, 198])
    rows = torch.tensor([[5, 628, 198], [5, 198, 628], [628, 198, 5]])
    assert stop(rows, torch.zeros(0)).tolist() == [True, False, False]


def test_white_space_and_half_characters_wait(tags_run) -> None:
    tokenizer = Bot(tags_run.hf, SHORT)._tokenizer
    pieces: list[str] = []
    stream = _Stream(tokenizer.decode, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    for id_ in tokenizer.encode(" well\n\n now 🤖") + tokenizer.encode("\n\n\n"):
        stream.put(torch.tensor([id_]))
    assert "".join(pieces) == "well\n\n now 🤖"
    assert not any(piece.endswith(("\n", "\N{REPLACEMENT CHARACTER}")) for piece in pieces)


def test_a_reply_ends_with_the_turn(tags_run, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = Bot(tags_run.hf, SHORT)
    said = bot._tokenizer.encode(" fine") + bot._tokenizer.encode("\n\n\n")
    monkeypatch.setattr(bot._model, "generate", lambda ids, **kw: torch.cat([ids, torch.tensor([said])], 1))
    assert bot.reply("how are you?") == "fine"


def test_talking_restarting_and_leaving(
    tags_run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bot = Bot(tags_run.hf, SHORT)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n\nrestart\nhow are you?\nquit\nnever read\n"))
    talk(bot)
    out = capsys.readouterr().out
    assert out.count("Bot: ") == 2
    assert "(a new conversation)" in out
    assert bot.turns[0].text == "how are you?"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    talk(bot)  # the end of the input leaves as well


def test_one_answer_as_json(tags_run, capsys: pytest.CaptureFixture[str]) -> None:
    cli.chat(["--model", str(tags_run.hf), "--prompt", "hello", "--max_new_tokens", "5", "--seed", "1", "--json"])
    lines = capsys.readouterr().out.splitlines()
    exchange = json.loads(lines[-1])
    assert exchange["prompt"] == "hello"
    assert exchange["reply"] == "\n".join(lines[:-1])


def test_what_is_no_bot_is_refused(tags_run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a run; export it first: jaxgpt export"):
        Bot(tags_run.run, SHORT)
    for file in tags_run.hf.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dialogue_format": None}))
    with pytest.raises(UserError, match="dialogue_format is None, the bot knows eos, tags, sep"):
        Bot(tmp_path, SHORT)
    with pytest.raises(UserError, match="--max_new_tokens 61 leaves no room"):
        Bot(tags_run.hf, Decoding(max_new_tokens=61))
    with pytest.raises(UserError, match=r"--top_p is 0; it must lie in \(0, 1\]"):
        Decoding(top_p=0)
    with pytest.raises(UserError, match="--prompt is empty"):
        cli.chat(["--model", str(tags_run.hf), "--prompt", " "])


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
