"""Examples of a data set in a Python process as chunks: what TensorFlow Datasets and Hugging Face's datasets share."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from data_prep.sources.chunk import Chunk, Item
from data_prep.sources.turns import conversation
from jaxgpt.data.dialogue import Turn
from jaxgpt.errors import UserError

Holds = Literal["documents", "dialogue"]

_HALF = 1 << 27


@dataclass(frozen=True)
class ExampleSource:
    """One split of a data set. size: bytes, as it says itself; version: changes when its data do."""

    spec: str
    name: str
    split: str
    field: str
    holds: Holds
    size: int
    n_examples: int
    version: str

    def fingerprint(self) -> list[dict[str, Any]]:
        return [{"path": f"{self.name}:{self.split}", "version": self.version, "examples": self.n_examples}]

    def unsplittable(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def read(self, chunk: Chunk) -> Iterator[Item]:
        yield from chunk.data


def example_chunks(
    examples: Iterable[dict[str, Any]], spec: str, field: str, base: int, size: int, expected: int, chunk_bytes: int
) -> Iterator[Chunk]:
    """Chunks of about `chunk_bytes` of text, with positions in [base, base + size).

    expected: how many examples there are, as the data set says. Where it doesn't, which is 0, the first `_HALF` bytes
    of text take half of the positions, the next `_HALF` a sixth, and so on: however many come, there are some left.
    """
    position, items, n_bytes, total = base, list[Item](), 0, 0
    for number, example in enumerate(examples, start=1):
        item = item_of(example, spec, field)
        items.append(item)
        n_bytes += len(item) if isinstance(item, str) else sum(len(turn.text) for turn in item.turns)
        if n_bytes >= chunk_bytes:
            yield Chunk(position, spec, 0, tuple(items))
            total += n_bytes
            done = number / expected if expected else total / (total + _HALF)
            position, items, n_bytes = base + min(int(size * done), size - 1), [], 0
    if items:
        yield Chunk(position, spec, 0, tuple(items))


def item_of(example: dict[str, Any], spec: str, field: str) -> Item:
    """A document or a conversation from one field of an example; UserError naming the fields there are."""
    value: Any = example
    for key in field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value
    turns = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(turns, list) and turns and all(isinstance(turn, str | bytes) for turn in turns):
        texts = [turn.decode(errors="replace") if isinstance(turn, bytes) else turn for turn in turns]
        return conversation(Turn(text, index % 2) for index, text in enumerate(texts))
    found = {key: type(value).__name__ for key, value in example.items()}
    raise UserError(
        f"--source {spec}: the field {field!r} holds neither text nor a list of turns; the fields are "
        f"{json.dumps(found)}; name one with --text_field"
    )


def holds_of(example: dict[str, Any], spec: str, field: str) -> Holds:
    """What a data set holds, by its first example."""
    return "documents" if isinstance(item_of(example, spec, field), str) else "dialogue"
