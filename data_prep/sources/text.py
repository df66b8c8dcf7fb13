"""Plain UTF-8 text: a file is a document."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.block import Block, decode
from jaxgpt.errors import UserError


def blocks(path: Path) -> list[Block]:
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty; leave it out of --source")
    return [Block(path, 0, size)]


def read(block: Block) -> Iterator[str]:
    """The one document; UserError with file and line where it is not UTF-8."""
    yield decode(block.path, 0, block.path.read_bytes())
