"""What every source gives: chunks that a worker can read by itself, and the items read from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from jaxgpt.data.dialogue import Conversation

# A single line, document or archive member of more is left out and counted: nothing may need memory without bound.
MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Dropped:
    """Something that did not become an item: why, how often, and what it looked like.

    damaged: the input itself is broken there, so that --strict stops.
    """

    reason: str
    example: str = ""
    count: int = 1
    damaged: bool = False


Item = str | Conversation  # a document, or a conversation


def content_of(item: Item) -> bytes:
    """What an item says, as bytes: equal for equal items."""
    return item.encode() if isinstance(item, str) else orjson.dumps([turn.text for turn in item.turns])


@dataclass(frozen=True)
class Chunk:
    """A piece of a source, small enough to travel between processes.

    position: where it begins, in [0, size of its source), and never before the previous chunk. It decides the shard.
    file: the input it comes from; offset: of its first byte in the decompressed file. Both are for messages.
    data: its content, as the source's `read` knows it; or a Dropped, where there is something to count only.
    """

    position: int
    file: str
    offset: int
    data: Any


class Source(Protocol):
    """One `KIND:PATHS` of the command line; it travels to the workers, so it holds names and options only.

    size: the end of its positions: bytes on disk, or an estimate in about that unit.
    """

    @property
    def spec(self) -> str: ...

    @property
    def holds(self) -> Literal["documents", "dialogue"]: ...

    @property
    def size(self) -> int: ...

    def fingerprint(self) -> list[dict[str, Any]]:
        """What tells whether the input has changed, a dictionary per file with its `path`."""

    def unsplittable(self) -> list[tuple[int, int]]:
        """Stretches of positions, each of which can only be read from its start: compressed files, for example."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        """All chunks in order, of about `chunk_bytes` of text; those before position `begin` may be left out.

        What a chunk holds does not depend on `begin`.
        """

    def read(self, chunk: Chunk) -> Iterator[Item | Dropped]:
        """The chunk's items; UserError with file and line for what the format does not allow."""
