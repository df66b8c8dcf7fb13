"""What every command shares: its arguments, one sentence and exit code 2 for a user's mistake, and `--json`."""

import difflib
import errno
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from jaxgpt import valid_json
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

PROG = "jaxgpt"
USER_MISTAKE = 2
INTERRUPTED, INTERRUPTED_CODE = "interrupted; what was finished stays, and the same command may be given again", 130
_BAD_PATH = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS)
_AFTER_FREEING = "free some space and run the same command again"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(USER_MISTAKE)


def run(main: Callable[[], None]) -> None:
    """Calls `main`; mistakes of the user and full disks end with one sentence and exit code 2."""
    try:
        main()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno in _DISK_FULL:
            fail(f"{_disk_full(error)}; {_AFTER_FREEING}")
        if error.errno not in _BAD_PATH or error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}; check the path and its permissions")
    except Exception as error:
        where = _full_disk_of_tensorstore(str(error))
        if where is None:
            raise
        fail(f"{_disk_full(OSError(errno.ENOSPC, 'No space left on device', where))}; {_AFTER_FREEING}")
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED_CODE) from None


def _disk_full(error: OSError) -> str:
    where = error.filename or "the output folder"
    return f"{where} could not be written ({error.strerror}); nothing half-written is left that counts as whole"


def _full_disk_of_tensorstore(text: str) -> str | None:
    """The path in an error by which tensorstore, in its text alone, says that the disk is full; None for any other."""
    if not re.search(r"No space left on device|Disk quota exceeded|File too large", text):
        return None
    path = re.search(r"\"(/[^\"]*)\"", text)
    return path[1] if path else "a checkpoint"


def print_json(values: dict[str, Any]) -> None:
    """One JSON object as the last line of stdout; what is no finite number is null, as JSON knows no other."""
    print(valid_json.dumps(values), flush=True)


def make_parser(command: str, description: str) -> "ArgumentParser":
    """For the arguments of `jaxgpt COMMAND`."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"{PROG} {command}", description=description, exit_on_error=False)


def add_step(parser: "ArgumentParser") -> None:
    """--step of the commands that take a run."""
    parser.add_argument(
        "--step", type=int | None, default=None, help="checkpoint of a run; by default the one with the lowest loss"
    )


def parse(parser: "ArgumentParser", arguments: list[str]) -> "Namespace":
    """The arguments; a wrong one is a UserError in one sentence, an unknown one with the nearest that exists."""
    from jsonargparse import ArgumentError as JsonArgumentError

    try:
        found = parser.parse_args(arguments)
        _check_sections(vars(found), _keys(parser))
        return parser.instantiate(found)
    except (ArgumentError, JsonArgumentError) as error:
        message = " ".join(str(error).split())
        raise UserError(_with_nearest(_with_choices(message), _keys(parser))) from None


def _check_sections(values: dict[str, Any], keys: list[str]) -> None:
    """UserError where a file has a plain value in the place of a section."""
    for name, value in values.items():
        fields = [key for key in keys if key.startswith(f"{name}.")]
        if fields and not hasattr(value, "__dict__"):
            raise UserError(f"{name} is {value!r}; it is a section, with fields such as {fields[0]}")


def _keys(parser: "ArgumentParser") -> list[str]:
    return [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]


# How jsonargparse speaks of a value that is none of a few words, and of one that should be a list.
_CHOICE = r'Parser key "([\w.]+)": .*typing\.Literal\[(.*?)\].*(?:Got|Given) value: (.*)'
_LIST = r'Parser key "([\w.]+)": Expected a <class \'list\'>\. Got value: (.*)'


def _with_choices(message: str) -> str:
    """The same in words for people."""
    if found := re.search(_CHOICE, message):
        key, choices, value = found.groups()
        return f"--{key} is {value!r}; it must be one of {choices.replace(chr(39), '')}"
    if found := re.search(_LIST, message):
        return f"--{found[1]} is a list; write --{found[1]}+ {found[2]}"
    return message


# How jsonargparse speaks of a key that does not exist: within a section, on the command line, at the top of a file.
_UNKNOWN = (
    r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'",
    r"[Uu]nrecognized arguments: --(?P<key>[\w.]+)(?P<plus>\+?)",
    r"Option '(?P<key>[\w.]+)' is not accepted",
)


def _with_nearest(message: str, keys: list[str]) -> str:
    """A message about an unknown key becomes one with the key's full name and its nearest relative among `keys`."""
    found = next((match for pattern in _UNKNOWN if (match := re.search(pattern, message))), None)
    if found is None:
        return message
    unknown = ".".join(part for part in (found.groupdict().get("group"), found["key"]) if part)
    if found.groupdict().get("plus") and unknown in keys:
        return f"--{unknown}+ adds to no list; write --{unknown}, and what it is to be behind it"
    near = difflib.get_close_matches(unknown, keys, 1, cutoff=0.5)
    return f"there is no option {unknown}; " + (f"did you mean {near[0]}?" if near else "--help lists the options")
