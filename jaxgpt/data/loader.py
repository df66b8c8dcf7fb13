"""Batches from pages: which rows step k sees is a pure function of the seed and of one integer.

Nothing is held in memory but the batches under way; rows are read from memory-mapped shards.
Dimensions: B rows of a batch, T tokens of a row.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxgpt.data.manifest import Manifest, load_manifest
from jaxgpt.data.shuffle import permute, random_u64
from jaxgpt.errors import UserError

Batch = dict[str, np.ndarray]
T = TypeVar("T")

_ORDER, _OFFSET = 0, 1  # what a random number is for


class Pages:
    """One split of a folder of pages, as rows of `seq_len` tokens addressed by number.

    A stream is cut into rows anew in every epoch, from an offset that the seed and the epoch decide, so that a token
    does not always meet the same neighbours; rows at a shard's ends are then partly empty (weight 0). Dialogue rows
    stay as they were packed. Each token that can be predicted is predicted once in an epoch.
    """

    def __init__(self, folder: Path, split: str, seq_len: int | None = None):
        self.folder, self.split = folder, split
        self.manifest: Manifest = load_manifest(folder)
        self.info = self.manifest.split(split, folder)
        self.seq_len = seq_len or self.manifest.row_length
        self._shards = self.manifest.open_shards(folder, split)
        self._tokens = [shard.tokens for shard in self.info.shards]
        if self.manifest.kind == "dialogue" and self.seq_len != self.manifest.row_length:
            raise UserError(
                f"data.seq_len {self.seq_len} is not the row_length {self.manifest.row_length} of the dialogue pages "
                f"in {folder}; leave data.seq_len out or build the pages with --row_length {self.seq_len}"
            )
        if not self.info.records:
            raise UserError(
                f"{folder}: the split {split!r} has no rows; build the pages again with a larger --{split}_fraction"
            )

    def _starts(self, rows_per_shard: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(rows_per_shard)])

    def _starts_of_epoch(self, shuffled: bool) -> np.ndarray:
        """Where each shard's rows begin among the split's, and at the end their number."""
        if self.manifest.kind == "dialogue":
            return self._starts([len(shard) for shard in self._shards])
        # Any offset in [0, seq_len) needs at most this many rows for n - 1 targets; unshuffled ones have offset 0.
        slack = self.seq_len - 1 if shuffled else 0
        return self._starts([-(-(max(n - 1, 0) + slack) // self.seq_len) if n > 1 else 0 for n in self._tokens])

    def n_rows(self, shuffled: bool) -> int:
        """Rows of an epoch: in shuffled order with random offsets, or in the order of the files."""
        return int(self._starts_of_epoch(shuffled)[-1])

    def shuffled(self, seed: int, position: int, count: int) -> Batch:
        """Rows number `position` … `position + count - 1` of the endless shuffled sequence -> arrays (count, T)."""
        n = self.n_rows(shuffled=True)
        at = np.arange(position, position + count)
        parts = []
        for epoch in np.unique(at // n):
            within = at[at // n == epoch] % n
            parts.append(self._read(permute(within, n, seed, _ORDER, int(epoch)), (seed, int(epoch))))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def in_order(self, position: int, count: int) -> Batch:
        """The same in the order of the files, once; rows past the end are empty (weight 0)."""
        n = self.n_rows(shuffled=False)
        rows = np.arange(position, position + count)
        batch = self._read(np.minimum(rows, n - 1), None)
        batch["weights"][rows >= n] = 0.0
        return batch

    def _read(self, rows: np.ndarray, seed_and_epoch: tuple[int, int] | None) -> Batch:
        starts = self._starts_of_epoch(shuffled=seed_and_epoch is not None)
        shards = np.searchsorted(starts, rows, side="right") - 1
        dialogue = self.manifest.kind == "dialogue"
        batch = _empty(len(rows), self.seq_len, dialogue)
        for shard in np.unique(shards):
            of_shard = np.flatnonzero(shards == shard)
            within = rows[of_shard] - starts[shard]
            if dialogue:
                self._read_dialogue(shard, within, of_shard, batch)
                continue
            offset = 0
            if seed_and_epoch is not None:
                seed, epoch = seed_and_epoch
                offset = random_u64(seed, _OFFSET, epoch, int(shard)) % self.seq_len
            for row, number in zip(of_shard.tolist(), within.tolist(), strict=True):
                self._read_window(int(shard), number * self.seq_len - offset, row, batch)
        return batch

    def _read_dialogue(self, shard: int, records: np.ndarray, into: np.ndarray, batch: Batch) -> None:
        rows = self._shards[shard].read(records)
        for name, column in (("input_ids", "tokens"), ("segments", "segments"), ("roles", "roles")):
            batch[name][into] = rows[column]
        # A row's last token predicts nothing; a conversation's first is predicted by nothing and has weight 0.
        batch["targets"][into, :-1] = rows["tokens"][:, 1:]
        batch["weights"][into, :-1] = rows["weights"][:, 1:]
        batch["positions"][into] = positions_of(rows["segments"])

    def _read_window(self, shard: int, start: int, row: int, batch: Batch) -> None:
        """Tokens start … start + T of a shard's stream into one row; what lies outside of it stays empty."""
        first, last = max(start, 0), min(start + self.seq_len, self._tokens[shard] - 1)
        if first >= last:
            return
        tokens = self._shards[shard].read_span(first, last + 1)
        inside = slice(first - start, last - start)
        batch["input_ids"][row, inside] = tokens[:-1]
        batch["targets"][row, inside] = tokens[1:]
        batch["weights"][row, inside] = 1.0


def _empty(n_rows: int, seq_len: int, dialogue: bool) -> Batch:
    shape = (n_rows, seq_len)
    batch = {
        "input_ids": np.zeros(shape, np.int32),
        "targets": np.zeros(shape, np.int32),
        "weights": np.zeros(shape, np.float32),
    }
    if dialogue:
        batch |= {name: np.zeros(shape, np.int32) for name in ("positions", "segments", "roles")}
    return batch


def positions_of(segments_BT: np.ndarray) -> np.ndarray:
    """Each token's place in its own segment, from 0 -> int32 (B, T)."""
    at = np.arange(segments_BT.shape[1])[None]
    begins = np.ones(segments_BT.shape, bool)
    begins[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return (at - np.maximum.accumulate(np.where(begins, at, 0), axis=1)).astype(np.int32)


def process_slice(batch_size: int, process: int, n_processes: int) -> slice:
    """The rows of a global batch that one process of several reads."""
    if batch_size % n_processes:
        raise UserError(
            f"train.batch_size {batch_size} is not divisible by {n_processes} processes; try "
            f"{batch_size // n_processes * n_processes or n_processes}"
        )
    share = batch_size // n_processes
    return slice(process * share, (process + 1) * share)


def training_batches(
    pages: Pages, batch_size: int, seed: int, position: int = 0, process: int = 0, n_processes: int = 1
) -> Iterator[tuple[Batch, int]]:
    """This process's part of one global batch after the other, without end, each with the position after it.

    The position counts rows of the shuffled sequence; started with it again, the batches go on as if never stopped.
    `rows` (B,) numbers the rows within the global batch.
    """
    mine = process_slice(batch_size, process, n_processes)
    while True:
        batch = pages.shuffled(seed, position + mine.start, mine.stop - mine.start)
        batch["rows"] = np.arange(mine.start, mine.stop, dtype=np.int32)
        position += batch_size
        yield batch, position


def evaluation_batches(
    pages: Pages, batch_size: int, limit: int = 0, process: int = 0, n_processes: int = 1
) -> Iterator[Batch]:
    """This process's part of the split's batches in order, each row once; the last one is filled with empty rows.

    limit: number of batches at most; 0 means all.
    """
    mine = process_slice(batch_size, process, n_processes)
    n_batches = -(-pages.n_rows(shuffled=False) // batch_size)
    for index in range(min(n_batches, limit) if limit else n_batches):
        yield pages.in_order(index * batch_size + mine.start, mine.stop - mine.start)


def prefetch(items: Iterator[T], ahead: int) -> Generator[T, None, None]:
    """The same items, made by a thread that works up to `ahead` of them in advance.

    An exception of `items` is raised where its item would have come. Closing the iterator ends the thread.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # it belongs to the thread that consumes
            put((None, error))

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item comes without an error
    finally:
        stop.set()
        thread.join()  # a thread that is still at work when the interpreter ends would crash it
