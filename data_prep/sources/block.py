"""Pieces of input files that can be read independently of each other, and lines that know where they stand."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.errors import UserError

_BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Block:
    """Bytes [start, stop) of a file. Of lines, those that begin in the range belong to the block."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True)
class Line:
    path: Path
    offset: int
    text: str

    def where(self) -> str:
        return _where(self.path, self.offset)


def _where(path: Path, offset: int) -> str:
    """`file:line`; counted only when somebody needs it."""
    line, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            line += chunk.count(b"\n")
            left -= len(chunk)
    return f"{path}:{line}"


def decode(path: Path, offset: int, raw: bytes) -> str:
    """UTF-8 text of bytes that begin at `offset` of the file; UserError with file and line otherwise."""
    try:
        return raw.decode("utf-8-sig" if offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{_where(path, offset + error.start)}: byte 0x{raw[error.start]:02x} is not UTF-8; "
            "convert the file, with `iconv -f LATIN1 -t UTF-8` for example"
        ) from None


def blocks_of_lines(path: Path) -> list[Block]:
    """The file in blocks of about 256 KiB, so that any number of processes can share one file."""
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty; leave it out of --source")
    return [Block(path, start, min(start + _BLOCK_BYTES, size)) for start in range(0, size, _BLOCK_BYTES)]


def lines(block: Block) -> Iterator[Line]:
    with block.path.open("rb") as file:
        offset = block.start
        if offset:
            # The line that reaches over the block's start belongs to the block before, also if it ends just there.
            file.seek(offset - 1)
            offset += len(file.readline()) - 1
        while offset < block.stop and (raw := file.readline()):
            yield Line(block.path, offset, decode(block.path, offset, raw.rstrip(b"\r\n")))
            offset += len(raw)
