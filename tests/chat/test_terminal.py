"""Lines in, conversation out: commands, settings, stopped replies, and leaving."""

import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_bots import Scripted, make_folder

from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.terminal import talk
from jaxgpt.chat.transcript import Transcript
from jaxgpt.data.dialogue import Turn


class Terminal:
    """Types lines and gives back what is shown after the welcome."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, bot: Bot, *lines: str, transcript: Transcript | None = None) -> list[str]:
        self._monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        talk(bot, transcript)
        shown = self._capsys.readouterr().out.split("\n")
        assert shown[0] == "Type a message, or /help. Ctrl-C stops a reply."
        prompt = f"{bot.names[0]}: "
        return [line[len(prompt) * line.count(prompt) :] for line in shown[1:]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def test_talking_restarting_and_leaving(typed: Terminal) -> None:
    for restart, quit_ in (("/restart", "/quit"), ("restart", "quit")):
        bot = Bot(Scripted("one", "two", "three"), Decoding())
        shown = typed(bot, "hello", "", restart, " how are you? ", quit_, "never read")
        assert shown == ["Bot: one", "(a new conversation)", "Bot: two", ""]
        assert bot.turns == [Turn("how are you?", 0), Turn("two", 1)]
    assert typed(bot) == ["", ""]  # the end of the input leaves as well


def test_commands_in_capitals_and_with_more_behind_them(typed: Terminal) -> None:
    bot = Bot(Scripted("one"), Decoding())
    assert typed(bot, "hello", "/Restart now", "/QUIT please", "never read") == ["Bot: one", "(a new conversation)", ""]


def test_control_characters_do_not_reach_the_terminal(typed: Terminal) -> None:
    assert typed(Bot(Scripted("a\x1b[2Jb\x07c\td"), Decoding()), "hello", "/quit") == ["Bot: a[2Jbc\td", ""]


def test_names(typed: Terminal) -> None:
    assert typed(Bot(Scripted("one"), Decoding(), names=("Anna", "Bob")), "hello", "/quit") == ["Bob: one", ""]


def test_undo_and_retry(typed: Terminal) -> None:
    bot = Bot(Scripted("one", "two", "three"), Decoding())
    shown = typed(bot, "/undo", "/retry", "hello", "/retry", "/undo", "bye", "/quit")
    assert shown == [
        "(there is nothing to take back)",
        "(there is no reply to try again; say something first)",
        "Bot: one",
        "Bot: two",
        "(your last message and its reply are taken back)",
        "Bot: three",
        "",
    ]
    assert bot.turns == [Turn("bye", 0), Turn("three", 1)]
    bot = Bot(Scripted("one", "one"), Decoding(temperature=0))
    assert typed(bot, "hello", "/retry")[2] == "(nothing is drawn: temperature is 0, or num_beams above 1)"


def test_settings(typed: Terminal) -> None:
    bot = Bot(Scripted("one"), Decoding(seed=7))
    listed = typed(bot, "/set", "/quit")[:-1]
    assert [line.split() for line in listed] == [
        ["temperature", "0.9"],
        ["top_k", "0"],
        ["top_p", "0.9"],
        ["min_p", "0.0"],
        ["repetition_penalty", "1.0"],
        ["no_repeat_ngram_size", "0"],
        ["num_beams", "1"],
        ["length_penalty", "1.0"],
        ["early_stopping", "false"],
        ["max_new_tokens", "null"],
        ["seed", "7"],
    ]
    shown = typed(
        bot,
        *("/set temperature 0.7", "/set --top_k 5", "/set seed null", "/set top_k", "/set temprature 1", "/set x 1"),
        *("/set early_stopping true", "/set early_stopping yes"),
        *("/set top_p 2", "/set top_k 0.5", "/set temperature warm", "/set seed none", "/set max_new_tokens 200"),
        *("hello", "/quit"),
    )
    assert [" ".join(line.split()) for line in shown] == [
        "temperature 0.7",
        "top_k 5",
        "seed null",
        "top_k 5",
        "(there is no setting temprature; did you mean temperature?)",
        "(there is no setting x; /set lists them)",
        "early_stopping true",
        "(--early_stopping is 'yes'; it must be true or false)",
        "(--top_p is 2.0; it must lie in (0, 1])",
        "(--top_k is '0.5'; it must be a whole number)",
        "(--temperature is 'warm'; it must be a number)",
        "(--seed is 'none'; it must be a whole number or null)",
        "(--max_new_tokens 200 leaves no room for a prompt in the model's n_positions 200; try 100)",
        "Bot: one",
        "",
    ]
    assert bot.decoding == Decoding(temperature=0.7, top_k=5, early_stopping=True)
    assert bot._engine.asked[0][0] == bot.decoding  # type: ignore[attr-defined]


def test_help_and_what_does_not_exist(typed: Terminal) -> None:
    bot = Bot(Scripted(), Decoding())
    shown = typed(bot, "/help", "/quit")
    commands = {line.split()[0] for line in shown[:-1]}
    assert commands == {"/restart", "/undo", "/retry", "/save", "/set", "/help", "/quit"}
    shown = typed(bot, "/retyr", "/xyzzy", "/")
    assert shown[:3] == [
        "(there is no command /retyr; did you mean /retry?)",
        "(there is no command /xyzzy; /help lists them)",
        "(there is no command /; /help lists them)",
    ]


def test_ctrl_c_stops_the_reply_and_not_the_conversation(typed: Terminal) -> None:
    bot = Bot(Scripted("one", None, "two"), Decoding())
    shown = typed(bot, "hello", "go on", "again", "/quit")
    assert shown == ["Bot: one", "Bot: half", "(stopped; the conversation is as before)", "Bot: two", ""]
    assert [turn.text for turn in bot.turns] == ["hello", "one", "again", "two"]


def test_saving(typed: Terminal, tmp_path: Path) -> None:
    path, thesis = tmp_path / "talk.jsonl", tmp_path / "thesis.txt"
    thesis.write_text("years of work\n")
    bot = Bot(Scripted("one"), Decoding())
    shown = typed(
        bot,
        "/save",
        f"/save {path}",
        "hello",
        f"/save {path}",
        f"/save {thesis}",
        f"/save {tmp_path}",
        "/save ~nobody-here/x",
    )
    assert shown[0] == "(/save needs the name of a file, such as /save talk.jsonl)"
    assert shown[1] == "(there is nothing to save)"
    assert shown[3] == f"(saved in {path})"
    assert "thesis.txt, line 1 is no conversation" in shown[4]
    assert "is no file" in shown[5]
    assert "there is no folder ~nobody-here" in shown[6]
    assert [turn["text"] for turn in json.loads(path.read_text())["turns"]] == ["hello", "one"]
    assert thesis.read_text() == "years of work\n"


def texts(path: Path) -> list[list[str]]:
    return [[turn["text"] for turn in json.loads(line)["turns"]] for line in path.read_text().splitlines()]


def test_a_conversation_stands_once_in_a_file(typed: Terminal, tmp_path: Path) -> None:
    path, link, other = tmp_path / "talk.jsonl", tmp_path / "link.jsonl", tmp_path / "other.jsonl"
    link.symlink_to(path)
    bot = Bot(Scripted(*"12345678"), Decoding())
    save, stages = f"/save {path}", []

    class Watching(Transcript):
        def keep(self, *args: Any) -> bool:
            stages.append(texts(path) if path.exists() else None)
            return super().keep(*args)

    lines = ["a", save, save, "b", save, "/retry", save, "/undo", f"/save {link}", f"/save {other}", "/restart"]
    typed(bot, *lines, "c", save, "d", f"/save {other}", "/quit", transcript=Watching(path))
    first = ["a", "1"]
    assert stages == [
        None,
        [first],
        [first],
        [[*first, "b", "2"]],
        [[*first, "b", "3"]],
        [first],
        [first],
        [first, ["c", "4"]],
    ]
    assert texts(path) == [first, ["c", "4", "d", "5"]]
    assert texts(other) == [first, ["c", "4", "d", "5"]]


def test_the_transcript_gets_each_conversation_at_its_end(typed: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    bot = Bot(Scripted("one", "two", "three", "four"), Decoding(), names=("Anna", "Bob"))
    lines = ("a", "b", "/undo", "/restart", "/restart", "c", "d", "/quit")
    typed(bot, *lines, transcript=Transcript(path))
    assert texts(path) == [["a", "one"], ["c", "three", "d", "four"]]
    assert json.loads(path.read_text().splitlines()[0])["names"] == ["Anna", "Bob"]

    class Broken(Scripted):
        def stream(self, *args: object) -> None:  # type: ignore[override]
            raise RuntimeError("a bug")

    bot.restart()
    typed_in = Bot(Broken(), Decoding())
    typed_in.turns = [Turn("e", 0), Turn("f", 1)]
    with pytest.raises(RuntimeError, match="a bug"):
        typed(typed_in, "hello", transcript=Transcript(path))
    assert len(path.read_text().splitlines()) == 3


def test_ctrl_c_at_the_prompt_leaves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupted)
    talk(Bot(Scripted(), Decoding()))
    assert capsys.readouterr().out.endswith("reply.\n\n")


@pytest.mark.slow
def test_in_a_real_terminal(tmp_path: Path) -> None:
    """Ctrl-C stops a reply and nothing else, and the transcript outlives a closed window."""
    folder, path = make_folder(tmp_path / "model", "tags", positions=4001, endless=True), tmp_path / "talk.jsonl"
    options = ["--transcript", str(path), "--max_new_tokens", "4", "--names", "Me,It"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxgpt", "chat", "--model", str(folder), *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    _expect(ours, "Me: ")
    os.write(ours, b"hello\n")
    _expect(ours, "It: ", "Me: ")
    os.write(ours, b"/set max_new_tokens 3900\n")
    _expect(ours, "3900", "Me: ")
    os.write(ours, b"and now a long one\n")
    _expect(ours, "It: ")
    time.sleep(0.2)
    os.write(ours, b"\x03")
    _expect(ours, "(stopped; the conversation is as before)", "Me: ")
    os.close(ours)  # as closing the window does
    assert process.wait(60) != 0
    (saved,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert [turn["text"] for turn in saved["turns"][:-1]] == ["hello"]


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C reaches who owns the terminal


def _expect(terminal: int, *texts: str) -> None:
    """Reads until these texts have been shown, one after the other."""
    shown, wanted = "", list(texts)
    while wanted:
        try:
            shown += os.read(terminal, 1000).decode(errors="replace")
        except OSError:
            raise AssertionError(f"the terminal closed; it showed {shown!r}, expected {wanted}") from None
        while wanted and wanted[0] in shown:
            shown = shown.partition(wanted.pop(0))[2]
