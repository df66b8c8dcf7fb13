"""`jaxgpt <command>`. What is heavy is imported inside the command that needs it."""

import difflib
import sys
from collections.abc import Callable
from io import TextIOWrapper

from jaxgpt.backend import with_huge_pages
from jaxgpt.caches import keep_compiled
from jaxgpt.command import PROG, fail, run
from jaxgpt.commands.comparing import compare
from jaxgpt.commands.doctoring import doctor
from jaxgpt.commands.experimenting import experiment
from jaxgpt.commands.looking import demo, inspect
from jaxgpt.commands.measuring import perplexity
from jaxgpt.commands.models import export, import_
from jaxgpt.commands.planning import plan
from jaxgpt.commands.replies import replies
from jaxgpt.commands.talking import chat, generate
from jaxgpt.commands.training import train
from jaxgpt.interrupts import reliable_interrupts


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what the terminal's encoding lacks
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"{PROG} {version(PROG)}")
        return
    command = COMMANDS.get(arguments[0])
    if command is None:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        fail(f"{PROG} has no command {arguments[0]!r}; {hint}")
    keep_compiled()
    if command is train:
        with_huge_pages()
    with reliable_interrupts():
        run(lambda: command(arguments[1:]))


def _help() -> str:
    lines = [f"usage: {PROG} COMMAND [options]", "", "From text and dialogue to a chat bot of your own.", ""]
    lines += [f"  {name:12s} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROG} COMMAND --help shows the command's options."])


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "plan": plan,
    "perplexity": perplexity,
    "compare": compare,
    "experiment": experiment,
    "replies": replies,
    "import": import_,
    "export": export,
    "generate": generate,
    "chat": chat,
    "inspect": inspect,
    "doctor": doctor,
    "demo": demo,
}
