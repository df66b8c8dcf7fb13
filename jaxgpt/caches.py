"""Where copies are kept of what can be made again: pages from buckets, and compiled programs."""

import os
from pathlib import Path

_COMPILED = "JAX_COMPILATION_CACHE_DIR"
_MOST_BYTES = 4 << 30  # of compiled programs


def cache_folder(option: str | None) -> Path:
    """What data.cache means: a folder; None is $XDG_CACHE_HOME/jaxgpt, or ~/.cache/jaxgpt without that variable."""
    if option is not None:
        return Path(option).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxgpt"


def keep_compiled() -> None:
    """Has JAX keep what it compiles, so that the same command need not compile it again.

    Call it before jax is imported. A user's own JAX_COMPILATION_CACHE_DIR stays; without a folder that can be written
    to, nothing is kept.
    """
    if _COMPILED in os.environ:
        return
    folder = cache_folder(None) / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder)
    except (OSError, RuntimeError):  # no home
        return
    if os.access(folder, os.W_OK):
        os.environ[_COMPILED] = str(folder)


def _make_room(folder: Path) -> None:
    """Removes the files that were not read for longest, until they are few enough.

    JAX would do it, but not after a process was killed while it wrote there.
    """
    found = [(path.stat(), path) for path in folder.iterdir() if path.is_file()]
    size = sum(stat.st_size for stat, _ in found)
    for stat, path in sorted(found, key=lambda entry: entry[0].st_atime):
        if size <= _MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        size -= stat.st_size
