"""A chunk of a source to token ids: read, clean, split, encode. What workers do; a pure function of the chunk."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from data_prep.clean import Cleaner, Cleaning
from data_prep.dedupe import is_duplicate, load_duplicates
from data_prep.encode import Encoder, Engine
from data_prep.sources.chunk import Chunk, Dropped, Item, Source, content_of
from jaxgpt.data.dialogue import FORMATS, Conversation, EncodedConversation, FormatName, LossOn, cut, weigh
from jaxgpt.data.records import PageFormat
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

EXAMPLES = 3  # kept of what each reason dropped
_EXAMPLE_CHARS = 200
_ITEMS_PER_CHUNK, _CHUNKS_PER_SHARD = 1 << 24, 1 << 24  # at most; they number the items in 64 bits


@dataclass(frozen=True)
class Task:
    """A chunk of source number `source`, at `position` among all sources' chunks: chunk `number` of shard `shard`."""

    shard: int
    number: int
    source: int
    position: int
    chunk: Chunk

    def size(self) -> int:
        """Bytes of what it carries, where that is bytes."""
        return len(self.chunk.data) if isinstance(self.chunk.data, bytes) else 0

    def orders(self, items: Sequence[int]) -> np.ndarray:
        """The places of the chunk's items among all items, uint64, ascending through the corpus."""
        first = (self.shard * _CHUNKS_PER_SHARD + self.number) * _ITEMS_PER_CHUNK
        return np.array(items, np.uint64) + np.uint64(first)


@dataclass(frozen=True)
class Recipe:
    """What decides the rows that items become; it travels to the workers.

    fractions: split -> share of the items; they add up to 1. duplicates: file of the items to leave out, or None
    """

    page_format: PageFormat
    tokenizer_folder: Path
    engine: Engine
    dialogue_format: FormatName
    loss_on: LossOn
    fractions: tuple[tuple[str, float], ...]
    seed: int
    strict: bool
    cleaning: Cleaning
    duplicates: Path | None


@dataclass(frozen=True)
class EncodedSplit:
    """What a chunk brings to one split. columns: tokens, and for dialogue weights and roles, each (T,).

    lengths: tokens of each piece, one after the other; for a stream the pieces are documents with their end-of-text.
    """

    counts: Counter[str]
    columns: dict[str, np.ndarray]
    lengths: np.ndarray


@dataclass
class EncodedChunk:
    """splits, and what the chunk's source counts: items read, kept, dropped with some examples."""

    splits: dict[str, EncodedSplit] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, dropped: Dropped) -> None:
        self.counts[f"dropped: {dropped.reason}"] += dropped.count
        kept = self.examples.setdefault(dropped.reason, [])
        if dropped.example and len(kept) < EXAMPLES:
            kept.append(dropped.example[:_EXAMPLE_CHARS])


def split_of(content: bytes, fractions: tuple[tuple[str, float], ...], seed: int) -> str:
    """The split of a document or conversation: by its own content, whatever else is in the corpus.

    Equal items fall into the same split, so no validation item is also trained on.
    """
    at = xxhash.xxh3_64_intdigest(content, seed) / 2**64
    for split, fraction in fractions:
        if at < fraction:
            return split
        at -= fraction
    return fractions[-1][0]  # rounding left a hair


class Reader:
    """Items as they are after cleaning: what the search for duplicates and the pages both begin with."""

    def __init__(self, sources: Sequence[Source], cleaning: Cleaning, strict: bool):
        self._sources, self._cleaner, self._strict = sources, Cleaner(cleaning), strict

    def items(self, task: Task, result: EncodedChunk) -> Iterator[tuple[int, Item]]:
        """(number within the chunk, item); what is dropped is counted in `result`."""
        if isinstance(task.chunk.data, Dropped):
            self._drop(task.chunk.data, result)
            return
        for number, item in enumerate(self._sources[task.source].read(task.chunk)):
            if isinstance(item, Dropped):
                self._drop(item, result)
                continue
            result.counts["read"] += 1
            usable = _usable(item)
            cleaned = usable if isinstance(usable, Dropped) else self._cleaner.clean(usable)
            if isinstance(cleaned, Dropped):
                self._drop(cleaned, result)
            else:
                yield number, cleaned
        result.counts.update(self._cleaner.counts)
        self._cleaner.counts.clear()

    def _drop(self, dropped: Dropped, result: EncodedChunk) -> None:
        if dropped.damaged and self._strict:
            raise UserError(
                f"{dropped.example}: {dropped.reason}; mend or leave out that file, or go on with --strict false"
            )
        result.drop(dropped)


def _usable(item: Item) -> Item | Dropped:
    if isinstance(item, str):
        return item if item and not item.isspace() else Dropped("empty document")
    if len(item.turns) < 2:
        return Dropped("fewer than two turns", item.turns[0].text if item.turns else "")
    return item


_Pieces = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # ids, weights, roles; length of each piece


class ChunkEncoder:
    """Makes EncodedChunks. One lives in each worker."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe):
        self._recipe = recipe
        self._reader = Reader(sources, recipe.cleaning, recipe.strict)
        self._tokenizer = load_tokenizer(str(recipe.tokenizer_folder))
        self._encoder = Encoder(self._tokenizer, recipe.engine)
        self._format = FORMATS[recipe.dialogue_format]
        self._duplicates = None if recipe.duplicates is None else load_duplicates(recipe.duplicates)
        wide = self._tokenizer.vocab_size > 1 << 16
        self._token_type = np.dtype(np.uint32 if wide else np.uint16)  # half as much to send to the writer

    def __call__(self, task: Task) -> EncodedChunk:
        result = EncodedChunk()
        splits: dict[str, list[Item]] = {}
        for item in self._distinct(task, result):
            content = content_of(item)
            if not isinstance(item, str):
                item = weigh(item, self._recipe.loss_on)
                if not any(turn.weight > 0 for turn in item.turns):
                    result.drop(Dropped("no turn that counts", item.turns[0].text))
                    continue
                result.counts["turns"] += len(item.turns)
            result.counts["kept"] += 1
            splits.setdefault(split_of(content, self._recipe.fractions, self._recipe.seed), []).append(item)
        for split, items in splits.items():
            conversations = [item for item in items if not isinstance(item, str)]
            documents = [item for item in items if isinstance(item, str)]
            if self._recipe.page_format.kind == "stream":
                columns, lengths = self._stream(documents)
            else:
                columns, lengths = self._dialogue(conversations, documents, result.counts)
            counting = (turn.text for item in conversations for turn in item.turns if turn.weight > 0)
            text_bytes, words = bytes_and_words([*documents, *counting])
            targets = int(np.count_nonzero(columns["weights"])) if "weights" in columns else int(lengths.sum())
            counts = Counter(documents=len(items), targets=targets, text_bytes=text_bytes, words=words)
            result.splits[split] = EncodedSplit(counts, columns, lengths)
            result.counts["tokens"] += int(lengths.sum())
            silent = (turn.text for item in conversations for turn in item.turns if not turn.weight > 0)
            result.counts["text_bytes"] += text_bytes + sum(len(text.encode()) for text in silent)
        return result

    def _distinct(self, task: Task, result: EncodedChunk) -> list[Item]:
        """The chunk's items without those that the search for duplicates has found."""
        numbered = list(self._reader.items(task, result))
        items = [item for _, item in numbered]
        if self._duplicates is None or not items:
            return items
        again = is_duplicate(self._duplicates, task.orders([number for number, _ in numbered])).tolist()
        for item, drop in zip(items, again, strict=True):
            if drop:
                result.drop(Dropped("duplicate", item if isinstance(item, str) else item.turns[0].text))
        return [item for item, drop in zip(items, again, strict=True) if not drop]

    def _stream(self, documents: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns and lengths, each document with its end-of-text."""
        ids, starts = self._encoder.encode(documents)
        lengths = np.diff(starts) + 1
        tokens = np.empty(int(lengths.sum()), self._token_type)
        ends = np.cumsum(lengths) - 1
        is_text = np.ones(len(tokens), bool)
        is_text[ends] = False
        tokens[is_text] = ids
        tokens[ends] = self._tokenizer.eos_token_id
        return {"tokens": tokens}, lengths

    def _dialogue(
        self, conversations: list[Conversation], documents: list[str], of_source: Counter[str]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Columns and lengths of pieces: conversations in the recipe's format, documents with their end-of-text."""
        parts = [*self._conversations(conversations, of_source), *self._documents(documents)]
        columns = {
            "tokens": np.concatenate([ids for ids, _, _, _ in parts]).astype(self._token_type),
            "weights": np.concatenate([weights for _, weights, _, _ in parts]),
            "roles": np.concatenate([roles for _, _, roles, _ in parts]),
        }
        return columns, np.concatenate([lengths for _, _, _, lengths in parts])

    def _conversations(self, conversations: list[Conversation], of_source: Counter[str]) -> Iterator[_Pieces]:
        if not conversations:
            return
        turns = [turn for conversation in conversations for turn in conversation.turns]
        ids, starts = self._encoder.encode([self._format.turn_text(turn) for turn in turns])
        joined = self._format.join_all(conversations, ids, starts, self._tokenizer)
        if shortened := sum(map(self._format.ends_within, turns)):
            of_source["turns_with_newlines_shortened"] += shortened
        lengths = np.diff(joined.edges)
        long = lengths > self._recipe.page_format.row_length
        if not long.any():
            yield joined.ids, joined.weights, joined.roles, lengths
            return
        for index in range(len(joined)):
            pieces = list(self._cut(joined[index]))
            if long[index]:
                of_source["conversations_cut"] += 1
                of_source["pieces_of_cut_conversations"] += len(pieces)
            yield from pieces

    def _documents(self, documents: list[str]) -> Iterator[_Pieces]:
        ids, starts = self._encoder.encode(documents)
        for start, stop in pairwise(starts.tolist()):
            eos = self._tokenizer.eos_token_id  # also before it, so that the first token is predicted, as in a stream
            tokens = np.concatenate([[eos], ids[start:stop], [eos]]).astype(np.int64)
            weights = np.ones(len(tokens), np.float32)
            weights[0] = 0.0
            yield from self._cut(EncodedConversation(tokens, weights, np.zeros(len(tokens), np.uint8), (0,)))

    def _cut(self, whole: EncodedConversation) -> Iterator[_Pieces]:
        for piece in cut(whole, self._recipe.page_format.row_length):
            yield piece.ids, piece.weights, piece.roles, np.array([len(piece.ids)])


def bytes_and_words(texts: Sequence[str]) -> tuple[int, int]:
    """Bytes in UTF-8, and words between white space, of all texts: the same words as `str.split`, in half its time."""
    ascii_texts = [text for text in texts if text.isascii()]
    others = [text for text in texts if not text.isascii()]
    n_bytes = sum(map(len, ascii_texts)) + sum(len(text.encode()) for text in others)
    joined = np.frombuffer("\n".join(["", *ascii_texts, ""]).encode("ascii"), np.uint8)
    # White space is 9 to 13 and 28 to 32; what else lies below 33 is rare.
    blank = (joined <= 32) & ((joined - np.uint8(14)) > 13) & (joined > 8)
    return n_bytes, int(np.count_nonzero(blank[:-1] & ~blank[1:])) + sum(len(text.split()) for text in others)
