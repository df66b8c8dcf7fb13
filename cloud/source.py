"""The code that hosts get: this clone's tracked files as they are now."""

import subprocess
from pathlib import Path

from cloud.errors import CloudError

ROOT = Path(__file__).parent.parent


def version() -> str:
    """The commit, with +changes where tracked files differ from it."""
    changed = bool(_git("status", "--porcelain", "--untracked-files=no").strip())
    return _git("rev-parse", "--short=12", "HEAD").decode().strip() + "+changes" * changed


def pack() -> bytes:
    """The tracked files, changes included, as a compressed tar; anything else would travel by accident."""
    # An object of the files as they are, which no branch points at; nothing where they are as committed.
    tree = _git("stash", "create").decode().strip() or "HEAD"
    return _git("archive", "--format=tar.gz", tree)


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise CloudError("git is not installed; the hosts get what it tracks") from None
    if done.returncode:
        said = done.stderr.decode().strip()
        raise CloudError(f"{ROOT} could not be packed (git: {said}); the hosts get what git tracks, so use a clone")
    return done.stdout
