"""Talking with a bot in the terminal: lines are messages, or commands that begin with a slash."""

import difflib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, get_type_hints

from jaxgpt.chat.bot import Bot
from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.streaming import printable
from jaxgpt.chat.transcript import Transcript, Transcripts
from jaxgpt.errors import UserError

_COMMANDS = {
    "/restart": "forget the conversation",
    "/undo": "take back your last message and its reply",
    "/retry": "draw the last reply anew",
    "/save FILE": "keep the conversation so far in FILE, as dialogue JSON Lines",
    "/set": "show how replies are drawn",
    "/set temperature 0.7": "change it",
    "/help": "show this",
    "/quit": "leave",
}
_NAMES = sorted({usage.split()[0] for usage in _COMMANDS})
_ALIASES = {"restart": "/restart", "quit": "/quit"}
_WELCOME = "Type a message, or /help. Ctrl-C stops a reply."


def talk(bot: Bot, transcript: Transcript | None = None) -> None:
    """Reads lines until /quit, Ctrl-C or the end of the input; each conversation goes to the transcript at its end."""
    if sys.stdin.isatty():
        _edit_lines()
    elif isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text in this locale
    print(_WELCOME)
    files = Transcripts(transcript)
    with _leaving_by_exception():
        try:
            while _line(bot, files):
                pass
        finally:
            files.end(bot.turns, bot.names)


def _line(bot: Bot, files: Transcripts) -> bool:
    """One line of the user's; False to leave."""
    try:
        line = input(f"{bot.names[0]}: ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return False
    line = _ALIASES.get(line, line)
    name = line.split(maxsplit=1)[0].lower() if line.startswith("/") else ""
    try:
        if name == "/quit":
            return False
        if name == "/restart":
            files.end(bot.turns, bot.names)
            bot.restart()
            print("(a new conversation)")
        elif name:
            _command(bot, files, name, *line.split(maxsplit=1)[1:])
        elif line:
            _show(bot, bot.stream(line))
    except (UserError, OSError) as error:
        print(f"({error})", flush=True)
    return True


def _show(bot: Bot, pieces: Iterator[str]) -> None:
    print(f"{bot.names[1]}: ", end="", flush=True)
    try:
        for piece in pieces:
            print(printable(piece), end="", flush=True)
    except KeyboardInterrupt:
        print("\n(stopped; the conversation is as before)", flush=True)
    else:
        print(flush=True)


def _command(bot: Bot, files: Transcripts, name: str, argument: str = "") -> None:
    if name == "/help":
        for usage, meaning in _COMMANDS.items():
            print(f"  {usage:22s}{meaning}")
    elif name == "/undo":
        print("(your last message and its reply are taken back)" if bot.undo() else "(there is nothing to take back)")
    elif name == "/retry":
        _show(bot, bot.retry())
        if not bot.decoding.draws:
            print("(nothing is drawn: temperature is 0, or num_beams above 1)")
    elif name == "/save":
        _save(bot, files, argument)
    elif name == "/set":
        _set(bot, *argument.split(maxsplit=1))
    else:
        near = difflib.get_close_matches(name, _NAMES, 1)
        raise UserError(f"there is no command {name}; " + (f"did you mean {near[0]}?" if near else "/help lists them"))


def _save(bot: Bot, files: Transcripts, file: str) -> None:
    if not file:
        raise UserError("/save needs the name of a file, such as /save talk.jsonl")
    path = Path(os.path.expanduser(file))  # Path's own fails where there is no such user
    saved = files.save(path, bot.turns, bot.names)
    print(f"(saved in {path})" if saved else "(there is nothing to save)")


def _set(bot: Bot, name: str = "", text: str = "") -> None:
    values = asdict(bot.decoding)
    if not name:
        for known, value in values.items():
            print(f"  {known:22s}{_shown(value)}")
        return
    name = name.removeprefix("--")
    if name not in values:
        near = difflib.get_close_matches(name, values, 1)
        raise UserError(f"there is no setting {name}; " + (f"did you mean {near[0]}?" if near else "/set lists them"))
    if text:
        bot.decoding = replace(bot.decoding, **{name: _value(name, text)})
    print(f"  {name:22s}{_shown(getattr(bot.decoding, name))}")


def _value(name: str, text: str) -> Any:
    """The value of a setting as on the command line."""
    kind = get_type_hints(Decoding)[name]
    optional = kind == int | None
    if optional and text == "null":
        return None
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"--{name} is {text!r}; it must be true or false")
        return text == "true"
    number = float if kind is float else int
    try:
        return number(text)
    except ValueError:
        what = "a number" if number is float else "a whole number"
        raise UserError(f"--{name} is {text!r}; it must be {what}{' or null' if optional else ''}") from None


def _shown(value: Any) -> str:
    """As the command line takes it."""
    return json.dumps(value)


def _edit_lines() -> None:
    """Arrow keys and earlier lines, where this Python has them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return


@contextmanager
def _leaving_by_exception() -> Iterator[None]:
    """Ctrl-C, a closed window or `kill` ends the conversation by an exception, so that the transcript gets it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: leave, signal.SIGHUP: leave}
    kept = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
