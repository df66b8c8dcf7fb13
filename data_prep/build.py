"""Shards from chunks: which chunk goes where, and the files of a shard, whole or not there at all.

The sources' positions, one after the other, are cut into as many equal parts as there are shards. So a shard is a pure
function of the plan, shards are finished one after the other, and a build that was stopped goes on at the first
that is missing, also in the middle of a compressed file.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.pack import DialoguePacker, Rows, StreamPacker
from data_prep.sources.chunk import Source
from data_prep.worker import EXAMPLES, EncodedChunk, EncodedSplit, Recipe, Task
from jaxgpt.data.atomic import replacing, write_text
from jaxgpt.data.records import ShardWriter

BUILD = ".build"  # in the output folder while it is not finished
# There, what a later call goes on from: shards, the list of duplicates, Reddit sorted by submission.
FINISHED = ("*-of-*.json", "duplicates.npy", "*/partition.json")
_CHUNK_BYTES = (16, 1 << 19)


@dataclass(frozen=True)
class Plan:
    """Equal plans give equal bytes."""

    sources: tuple[Source, ...]
    recipe: Recipe
    eos_token_id: int
    n_shards: int
    output: Path

    @property
    def size(self) -> int:
        return sum(source.size for source in self.sources)

    @property
    def chunk_bytes(self) -> int:
        """Small inputs are cut finer, so that every shard gets something."""
        low, high = _CHUNK_BYTES
        return min(max(self.size // (4 * self.n_shards), low), high)

    def file(self, split: str, index: int) -> str:
        """TFDS's name for the shard."""
        return f"pages-{split}.tfrecord-{index:05d}-of-{self.n_shards:05d}"

    def result_path(self, index: int) -> Path:
        """Where the finished shard's counts lie while the whole folder is not finished."""
        return self.output / BUILD / f"{index:05d}-of-{self.n_shards:05d}.json"


def tasks(plan: Plan, shards: Iterable[int]) -> Iterator[Task]:
    """The chunks of these shards, in order."""
    wanted = set(shards)
    size, base = max(plan.size, 1), 0
    begin = -(-min(wanted) * size // plan.n_shards)
    counts: Counter[int] = Counter()
    for number, source in enumerate(plan.sources):
        if base + source.size > begin:
            for chunk in source.chunks(max(begin - base, 0), plan.chunk_bytes):
                # Sources whose size is an estimate may go beyond it.
                position = min(base + chunk.position, size - 1)
                shard = position * plan.n_shards // size
                if shard > max(wanted):
                    return
                if shard in wanted:
                    yield Task(shard, counts[shard], number, base + chunk.position, chunk)
                    counts[shard] += 1
        base += source.size


def write_shards(
    plan: Plan,
    shards: Iterable[int],
    encoded: Iterable[tuple[Task, EncodedChunk]],
    progress: Callable[[Task, EncodedChunk], None],
) -> None:
    """Writes each shard's files and, last, its counts; all of them appear whole or not at all.

    encoded: the shards' tasks with what they were encoded to, in order.
    """
    rest = iter(encoded)
    upcoming = next(rest, None)
    for index in sorted(shards):
        sources: dict[int, dict[str, Any]] = {}
        with ExitStack() as stack:
            writers = {}
            for split, _ in plan.recipe.fractions:
                path = stack.enter_context(replacing(plan.output / plan.file(split, index)))
                writers[split] = _SplitWriter(plan, path)
                stack.callback(writers[split].close)
            while upcoming is not None and upcoming[0].shard == index:
                task, chunk = upcoming
                for split, of_split in chunk.splits.items():
                    writers[split].add(of_split)
                of_source = sources.setdefault(task.source, {"counts": Counter(), "examples": {}})
                of_source["counts"].update(chunk.counts)
                merge_examples(of_source["examples"], chunk.examples)
                progress(task, chunk)
                upcoming = next(rest, None)
            splits = {split: writer.finish() for split, writer in writers.items()}
        write_text(plan.result_path(index), json.dumps({"splits": splits, "sources": sources}))


def merge_examples(into: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    """The first few examples of each reason, in the order of the input."""
    for reason, examples in more.items():
        kept = into.setdefault(reason, [])
        kept += examples[: EXAMPLES - len(kept)]


class _SplitWriter:
    """One split's file of a shard, its packer and its counts."""

    def __init__(self, plan: Plan, path: Path):
        page_format = plan.recipe.page_format
        self._packer: StreamPacker | DialoguePacker = (
            StreamPacker(page_format, plan.eos_token_id)
            if page_format.kind == "stream"
            else DialoguePacker(page_format)
        )
        self._writer = ShardWriter(path, page_format)
        self._counts: Counter[str] = Counter()

    def add(self, encoded: EncodedSplit) -> None:
        self._counts.update(encoded.counts)
        self._write(self._packer.add(encoded.columns, encoded.lengths))

    def _write(self, batches: Iterator[Rows]) -> None:
        for rows in batches:
            self._writer.write(rows)

    def finish(self) -> dict[str, int | str]:
        self._write(self._packer.flush())
        self._writer.close()
        keys = ("documents", "targets", "text_bytes", "words")
        return {
            **{key: self._counts[key] for key in keys},
            "tokens": self._packer.tokens if self._writer.records else 0,
            "records": self._writer.records,
            "bytes": self._writer.n_bytes,
            "crc32c": self._writer.crc32c,
        }

    def close(self) -> None:
        self._writer.close()
