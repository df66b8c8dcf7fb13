"""What cloud/tpu, cloud/bucket and cloud/gpu share: --dry-run; one sentence and exit code 2 for a person's mistake."""

import argparse
import sys
from collections.abc import Callable

from cloud.errors import CloudError

_MISTAKE, _INTERRUPTED = 2, 130
Subcommand = Callable[[argparse.Namespace], int | None]


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Subcommand,
    *,
    takes_options: bool = False,
) -> argparse.ArgumentParser:
    """A subcommand that `run` carries out, whose docstring is its help; it returns an exit code, None for 0.

    takes_options: what it does not know itself is passed on, as args.options.
    """
    said = run.__doc__ or ""
    parser = commands.add_parser(name, help=said.splitlines()[0], description=said, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="print every command and run none")
    parser.set_defaults(carry_out=run, takes_options=takes_options)
    return parser


def main(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """The exit code of what the arguments ask for."""
    args, others = parser.parse_known_args(arguments)
    args.options = others
    if args.options and not args.takes_options:
        parser.error(f"unknown: {' '.join(args.options)}")
    try:
        return int(args.carry_out(args) or 0)
    except CloudError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return _MISTAKE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror or error}; mend that, and give the same command again"
        print(f"error: {said}", file=sys.stderr, flush=True)
        return _MISTAKE
    except KeyboardInterrupt:
        print("interrupted; what was begun stays, and the same command may be given again", file=sys.stderr, flush=True)
        return _INTERRUPTED
