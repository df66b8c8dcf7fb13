"""One shard from its share of the input: read, split, encode, pack, write. A pure function of the job."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_prep.pack import DialoguePacker, Rows, StreamPacker
from data_prep.sources import dialogue, text
from data_prep.sources.block import Block
from jaxgpt.data.atomic import replacing, write_text
from jaxgpt.data.dialogue import FORMATS, Conversation, DialogueFormat, FormatName, LossOn, cut, weigh
from jaxgpt.data.records import PageFormat, ShardWriter
from jaxgpt.data.tokenizer import Tokenizer

SOURCES = {"dialogue": dialogue, "text": text}
BUILD = ".build"  # in the output folder while it is not finished
_ITEMS_PER_BATCH = 256


@dataclass(frozen=True)
class Job:
    """What shard `index` of `n_shards` is made from; equal jobs give equal bytes."""

    index: int
    n_shards: int
    blocks: tuple[tuple[int, str, Block], ...]  # (number of the source, its kind, where to read)
    output: Path
    page_format: PageFormat
    dialogue_format: FormatName | None
    loss_on: LossOn
    fractions: tuple[tuple[str, float], ...]  # split -> share of the items; they add up to 1
    seed: int

    def file(self, split: str) -> str:
        """TFDS's name for the shard."""
        return f"pages-{split}.tfrecord-{self.index:05d}-of-{self.n_shards:05d}"

    @property
    def result_path(self) -> Path:
        """Where the finished job's result lies while the whole folder is not finished."""
        return self.output / BUILD / f"{self.index:05d}-of-{self.n_shards:05d}.json"


def split_of(item: Conversation | str, fractions: tuple[tuple[str, float], ...], seed: int) -> str:
    """The split of a document or conversation: by its own content, whatever else is in the corpus.

    Equal items fall into the same split, so no validation item is also trained on.
    """
    content = item if isinstance(item, str) else json.dumps([turn.text for turn in item.turns])
    digest = hashlib.blake2b(content.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    at = int.from_bytes(digest, "little") / 2**64
    for split, fraction in fractions:
        if at < fraction:
            return split
        at -= fraction
    return fractions[-1][0]  # rounding left a hair


class _SplitWriter:
    """One split's file of the shard, its packer and its counts."""

    def __init__(self, job: Job, path: Path, tokenizer: Tokenizer):
        self._job, self._tokenizer = job, tokenizer
        self._format: DialogueFormat | None = FORMATS[job.dialogue_format] if job.dialogue_format else None
        self._stream = StreamPacker(job.page_format, tokenizer.eos_token_id)
        self._dialogue = DialoguePacker(job.page_format)
        self._writer = ShardWriter(path, job.page_format)
        self.counts: Counter[str] = Counter()

    def add(self, items: list[tuple[Conversation | str, Counter[str]]]) -> None:
        """items, each with the counter of its source."""
        texts: list[str] = []
        for item, _ in items:
            texts += [item] if isinstance(item, str) else [self._written(item).turn_text(t) for t in item.turns]
        encoded = iter(self._tokenizer.encode_batch(texts))
        for item, source in items:
            self.counts["documents"] += 1
            if isinstance(item, str):
                ids = next(encoded)
                self.counts["targets"] += len(ids) + 1
                self._count_text(item)
                self._write(self._stream.add(ids))
            else:
                self._add_conversation(item, list(islice(encoded, len(item.turns))), source)

    def _add_conversation(self, item: Conversation, turn_ids: list[list[int]], source: Counter[str]) -> None:
        joined = self._written(item).join(item, turn_ids, self._tokenizer)
        pieces = cut(joined, self._job.page_format.row_length)
        if len(pieces) > 1:
            source["conversations_cut"] += 1
            source["pieces_of_cut_conversations"] += len(pieces)
        if shortened := sum(self._written(item).ends_within(turn) for turn in item.turns):
            source["turns_with_newlines_shortened"] += shortened
        self.counts["targets"] += int((joined.weights > 0).sum())
        for turn in item.turns:
            if turn.weight > 0:
                self._count_text(turn.text)
        for piece in pieces:
            self._write(self._dialogue.add(piece))

    def _written(self, item: Conversation) -> DialogueFormat:
        assert self._format is not None, f"a conversation in pages without a dialogue format: {item}"
        return self._format

    def _count_text(self, text: str) -> None:
        self.counts["text_bytes"] += len(text.encode())
        self.counts["words"] += len(text.split())

    def _write(self, batches: Iterator[Rows]) -> None:
        for rows in batches:
            self._writer.write(rows)

    def finish(self) -> dict[str, int | str]:
        packer = self._stream if self._format is None else self._dialogue
        self._write(packer.flush())
        self._writer.close()
        tokens = packer.tokens if self._writer.records else 0
        keys = ("documents", "targets", "text_bytes", "words")
        return {
            **{key: self.counts[key] for key in keys},
            "tokens": tokens,
            "records": self._writer.records,
            "bytes": self._writer.n_bytes,
            "crc32c": self._writer.crc32c,
        }

    def close(self) -> None:
        self._writer.close()


def build_shard(job: Job, tokenizer: Tokenizer, progress: Callable[[int], None]) -> None:
    """Writes the shard's files and, last, its result; both appear whole or not at all.

    progress: is told how many bytes of input are done, block by block.
    """
    with ExitStack() as stack:
        writers = {}
        for split, _ in job.fractions:
            path = stack.enter_context(replacing(job.output / job.file(split)))
            writers[split] = _SplitWriter(job, path, tokenizer)
            stack.callback(writers[split].close)
        sources: dict[int, Counter[str]] = {}
        for number, kind, block in job.blocks:
            source = sources.setdefault(number, Counter())
            items = _kept(SOURCES[kind].read(block), job, source)
            while batch := list(islice(items, _ITEMS_PER_BATCH)):
                for split, writer in writers.items():
                    writer.add([(item, source) for item, item_split in batch if item_split == split])
            progress(block.stop - block.start)
        result = {"splits": {split: writer.finish() for split, writer in writers.items()}, "sources": sources}
    write_text(job.result_path, json.dumps(result))


def _kept(
    items: Iterator[Conversation] | Iterator[str], job: Job, source: Counter[str]
) -> Iterator[tuple[Conversation | str, str]]:
    """Items that are long enough to learn from, with their split; every other is counted with its reason."""
    for item in items:
        source["read"] += 1
        if isinstance(item, str):
            if not item.strip():
                source["dropped: empty document"] += 1
                continue
        else:
            if len(item.turns) < 2:
                source["dropped: fewer than two turns"] += 1
                continue
            item = weigh(item, job.loss_on)
            source["turns"] += len(item.turns)
        source["kept"] += 1
        yield item, split_of(item, job.fractions, job.seed)
