"""Duplicates over the whole corpus, found by keys that duplicates share.

Exact: an item's key is a hash of its text. Near: MinHash with locality-sensitive hashing. The set of every SHINGLE
words in a row becomes a signature of SIGNATURE hash minima; two sets of Jaccard similarity s agree in each of them with
probability s. It is cut into bands of some rows, and a band's content is a key, so two items share a key with
probability 1 - (1 - s^rows)^bands, which rises steeply at the threshold. Candidates are not compared again: their texts
may lie anywhere in the corpus.
Source: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3. The signatures are rensa's full-set
R-MinHash: on shingles of 2,000 pages of text it took 0.03 s, MinHash of datasketch 1.7 s, at equal accuracy.
"""

import hashlib
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from data_prep.clean import Cleaning
from data_prep.components import write_all_but_lowest
from data_prep.sources.chunk import Item, content_of
from data_prep.words import ngrams, word_hashes
from jaxgpt.data.shuffle import mix

SHINGLE = 5  # words
SIGNATURE = 128  # minima, at most
_BATCH = 2048  # items whose signatures are Python integers at one time, 4 KB each
_PIECE_BYTES = 32 << 20
_BUFFER_BYTES = 8 << 20


def keys_of_items(items: Sequence[Item], cleaning: Cleaning) -> tuple[np.ndarray, np.ndarray]:
    """(keys uint64 (k,), index int64 (k,) into `items`): what duplicates among cleaned items share.

    Exact: one key per item. Near: one per band; an item without any word has its exact key only. Each item's keys
    depend on itself alone.
    """
    if cleaning.duplicates == "exact":
        return np.array([_exact_key(item) for item in items], np.uint64), np.arange(len(items))
    keys, index = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for begin in range(0, len(items), _BATCH):
        some_keys, some_index = _near_keys(items[begin : begin + _BATCH], *bands_and_rows(cleaning.near_threshold))
        keys.append(some_keys)
        index.append(some_index + begin)
    return np.concatenate(keys), np.concatenate(index)


def _exact_key(item: Item) -> int:
    return int.from_bytes(hashlib.blake2b(content_of(item), digest_size=8).digest(), "little")


def _near_keys(items: Sequence[Item], bands: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    from rensa import RMinHash

    texts = [item if isinstance(item, str) else "\n".join(turn.text for turn in item.turns) for item in items]
    hashes, offsets = word_hashes(texts)
    counts = np.diff(offsets)
    wordless, worded = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    exact = np.array([_exact_key(items[number]) for number in wordless.tolist()], np.uint64)
    if not len(worded):
        return exact, wordless
    shingles, offsets = ngrams(*_filled_up(hashes, counts[worded]), SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets.astype(np.uint64), bands * rows, 1)
    signatures = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint64, len(worded) * bands * rows)
    signatures = signatures.reshape(len(worded), bands, rows)
    keys = np.broadcast_to(np.arange(bands, dtype=np.uint64), (len(worded), bands))  # bands are told apart
    for row in range(rows):
        keys = mix(keys + signatures[:, :, row])
    return np.concatenate([exact, keys.ravel()]), np.concatenate([wordless, np.repeat(worded, bands)])


def _filled_up(hashes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of texts of `counts` words, and their offsets; short texts get zeros, so that they have a shingle."""
    offsets = np.concatenate([[0], np.cumsum(np.maximum(counts, SHINGLE))])
    filled = np.zeros(offsets[-1], np.uint64)
    filled[np.arange(len(hashes)) + np.repeat(offsets[:-1] - np.cumsum(counts) + counts, counts)] = hashes
    return filled, offsets


@cache
def bands_and_rows(threshold: float) -> tuple[int, int]:
    """The cut of a signature of at most SIGNATURE minima with the least probability of a wrong answer.

    That is the area under the probability of a shared key left of the threshold, and above it on the right, each
    weighted one half.
    """
    below, above = (np.linspace(low, high, 1001) for low, high in ((0.0, threshold), (threshold, 1.0)))

    def error(bands: int, rows: int) -> float:
        false = np.trapezoid(1 - (1 - below**rows) ** bands, below)
        return float(false + np.trapezoid((1 - above**rows) ** bands, above))

    cuts = [(bands, rows) for bands in range(1, SIGNATURE + 1) for rows in range(1, SIGNATURE // bands + 1)]
    return min(cuts, key=lambda cut: error(*cut))


class DuplicateFinder:
    """Collects (key, order) of all items and finds the orders to leave out: all but the lowest of each group.

    Items that share a key are in one group, and so are those linked by others (connected components). The result does
    not depend on the order in which pairs come.

    Memory: less than 200 MiB of arrays, whatever the corpus. Pairs lie on disk, 16 bytes each, in files by their keys'
    top bits; they are sorted 32 MiB at a time, and a file of more is divided further. Links between items, one per
    shared key, are memory maps of files of up to 48 bytes per link, which the system may drop from memory.
    """

    def __init__(self, scratch: Path, expected_bytes: int):
        """scratch: a folder of the finder's own, emptied now and removed in the end; expected_bytes: of the pairs,
        where the size of the corpus will do as a guess: it decides the number of files, and a bad one only costs time.
        """
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._scratch = scratch
        bits = min(max((expected_bytes // _PIECE_BYTES).bit_length(), 1), 8)
        self._shift = 64 - bits
        self._buffer: list[np.ndarray] = []
        self._buffered = 0

    def add(self, keys: np.ndarray, orders: np.ndarray) -> None:
        """keys uint64 (k,), orders uint64 (k,): the place in the corpus of the item that each key belongs to."""
        if not len(keys):
            return
        self._buffer.append(np.stack([keys.astype(np.uint64), orders.astype(np.uint64)], axis=1))
        self._buffered += self._buffer[-1].nbytes
        if self._buffered >= _BUFFER_BYTES:
            self._flush()

    def finish(self, path: Path) -> int:
        """Writes the orders to leave out to `path`, a .npy for `load_duplicates`; returns how many they are."""
        self._flush()
        links = self._scratch / "links"
        links.touch()
        for bucket in sorted(self._scratch.glob("keys-*")):
            _write_links(bucket, self._shift, links)
        n_dropped = write_all_but_lowest(links, path)
        shutil.rmtree(self._scratch)
        return n_dropped

    def _flush(self) -> None:
        if self._buffer:
            _distribute(np.concatenate(self._buffer), self._shift, self._scratch / "keys")
        self._buffer, self._buffered = [], 0


def _distribute(pairs: np.ndarray, shift: int, stem: Path) -> None:
    """Appends the pairs to files `stem`-N, where N is their keys without the lower `shift` bits."""
    numbers = pairs[:, 0] >> np.uint64(shift)
    by_number = np.argsort(numbers, kind="stable")
    begins = _begins(numbers[by_number])
    for part in np.split(by_number, begins[1:]):
        with stem.with_name(f"{stem.name}-{numbers[part[0]]}").open("ab") as file:
            file.write(pairs[part].data)


def _write_links(bucket: Path, shift: int, links: Path) -> None:
    """Appends pairs of orders that share a key in the file `bucket` to `links`; the file is used up.

    A file of more than a piece passes on one pair per key and piece, divided by the keys' next bits: neither many keys
    nor one key of very many items need more memory.
    """
    size = bucket.stat().st_size
    next_shift = max(shift - 4, 0)
    for offset in range(0, size, _PIECE_BYTES):
        ones = _link_piece(np.fromfile(bucket, np.uint64, _PIECE_BYTES // 8, offset=offset).reshape(-1, 2), links)
        if size > _PIECE_BYTES:
            _distribute(ones, next_shift, bucket)
        del ones  # before the recursion
    bucket.unlink()
    for part in sorted(bucket.parent.glob(f"{bucket.name}-*")):
        _write_links(part, next_shift, links)


def _link_piece(pairs: np.ndarray, links: Path) -> np.ndarray:
    """Appends to `links` each order but one of a key, with that one; returns (key, that one) of all keys."""
    pairs = pairs[np.argsort(pairs[:, 0])]
    begins = _begins(pairs[:, 0])
    ones = pairs[begins]
    one_of_each = np.repeat(ones[:, 1], np.diff(begins, append=len(pairs)))
    others = pairs[:, 1] != one_of_each
    with links.open("ab") as file:
        file.write(np.stack([pairs[others, 1], one_of_each[others]], axis=1).data)
    return ones


def _begins(ascending: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))


def load_duplicates(path: Path) -> np.ndarray:
    """The orders of the items to leave out, uint64, ascending; a memory map that processes share."""
    return np.load(path, mmap_mode="r")


def is_duplicate(duplicates: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """bool, shape of `orders`: which of them are among `duplicates`."""
    if not len(duplicates):
        return np.zeros(np.shape(orders), bool)
    orders = np.asarray(orders, np.uint64)
    at = np.minimum(np.searchsorted(duplicates, orders), len(duplicates) - 1)
    return duplicates[at] == orders
