"""The code that hosts get: this clone's tracked files as they are now."""

import subprocess
from pathlib import Path
from typing import NamedTuple

from cloud.errors import CloudError

ROOT = Path(__file__).parent.parent


class Code(NamedTuple):
    """version: the commit, and where files differ from it + and their tree; archive: a compressed tar."""

    version: str
    archive: bytes


def pack() -> Code:
    """The tracked files, changes included; anything else would travel by accident."""
    commit = _git("rev-parse", "--short=12", "HEAD").decode().strip()
    # An object of the files as they are, which no branch points at; nothing where they are as committed.
    changed = _git("stash", "create").decode().strip()
    tree = f"+{_git('rev-parse', '--short=8', f'{changed}^{{tree}}').decode().strip()}" if changed else ""
    return Code(commit + tree, _git("archive", "--format=tar.gz", changed or "HEAD"))


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise CloudError("git is not installed; the hosts get what it tracks") from None
    if done.returncode:
        said = done.stderr.decode().strip()
        raise CloudError(f"{ROOT} could not be packed (git: {said}); the hosts get what git tracks, so use a clone")
    return done.stdout
