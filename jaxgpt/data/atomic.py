"""Files that are either whole or not there."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes the place of `path` when the block ends without an exception.

    What is written is on the disk before the name is; a block that fails leaves nothing behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether `replacing` made a file of this name, which then belongs to a process that was killed."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}\.partial", name) is not None


def is_empty(folder: Path) -> bool:
    """Whether the folder holds nothing, or only what killed processes left."""
    return folder.is_dir() and all(is_partial(path.name) for path in folder.iterdir())


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left in the folder and below; nobody else may be writing there."""
    for path in list(folder.rglob(".*.partial")):
        if is_partial(path.name):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
