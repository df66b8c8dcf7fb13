"""Whether a folder of pages is what its manifest says: every byte, every id, every count.

Dimensions: B rows of a block, T tokens of a row.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, load_manifest
from jaxgpt.data.records import Shard, crc32c_of_file
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

_BLOCK_BYTES = 1 << 20  # of one shard at a time: what the checks need stays in a core's cache
_AGAIN = "build the pages again or copy the folder from its source"


class Damaged(UserError):  # noqa: N818  # it says what the pages are
    """Pages that differ from their manifest; the message names the file, the record, what was found and expected."""


@dataclass(frozen=True)
class Verified:
    """What was read and found whole. bytes: of shards; seconds: that it took."""

    rows: int
    bytes: int
    seconds: float


def verify(folder: Path, shard: str | None = None) -> Verified:
    """Reads every shard of `folder`, or the one named, and compares it with the manifest, under a progress bar.

    Raises `Damaged` at the first fault, in the order of the manifest; UserError where there is no manifest.
    """
    start = time.monotonic()
    manifest = load_manifest(folder)
    wanted = [(name, info) for name, split in manifest.splits.items() for info in split.shards]
    if shard is not None:
        wanted = [(name, info) for name, info in wanted if info.file == shard]
        if not wanted:
            raise UserError(f"{folder / FILE} names no shard {shard}; give one that it names, or the folder")
    _check_tokenizer(manifest, folder)
    found: dict[str, Counter[str]] = {name: Counter() for name in manifest.splits}
    n_bytes = sum(info.bytes for _, info in wanted)
    # One thread: some 800 MB/s, and more of them only wait for each other, since CRCs are computed under Python's lock.
    with progress_bar(total=n_bytes, unit="B", unit_scale=True, desc="verify") as bar:
        for name, info in wanted:
            found[name] += _check_shard(manifest, folder, info, bar.update)
    if shard is None:
        for name in manifest.splits:
            _check_split(manifest, folder, name, found[name])
    rows = sum(info.records for _, info in wanted)
    return Verified(rows, n_bytes, time.monotonic() - start)


def _check_tokenizer(manifest: Manifest, folder: Path) -> None:
    path = folder / TOKENIZER_FOLDER
    if not path.is_dir():
        raise Damaged(f"{path} is missing; {_AGAIN}")
    with _as_damage():
        tokenizer = load_tokenizer(str(path))
    for what, found, expected in (
        ("hash", tokenizer.hash, manifest.tokenizer_hash),
        ("vocabulary", tokenizer.vocab_size, manifest.vocab_size),
        ("id of end-of-text", tokenizer.eos_token_id, manifest.eos_token_id),
    ):
        if found != expected:
            raise Damaged(f"{path}: {what} is {found}, {FILE} says {expected}; {_AGAIN}")


def _check_shard(manifest: Manifest, folder: Path, info: ShardInfo, progress: Callable[[int], object]) -> Counter[str]:
    """Everything that can be said of one file; what it holds, to be summed over its split."""
    path = folder / info.file
    with _as_damage():
        shard = Shard(path, manifest.page_format, info.records)
    record_bytes = manifest.page_format.dtype.itemsize
    if info.bytes != info.records * record_bytes:
        raise Damaged(f"{path} has {info.records * record_bytes} bytes, {FILE} says {info.bytes}; {_AGAIN}")
    check = _check_stream if manifest.kind == "stream" else _check_dialogue
    counts: Counter[str] = Counter()
    rows_per_block = max(_BLOCK_BYTES // record_bytes, 1)
    for start in range(0, len(shard), rows_per_block):
        numbers = np.arange(start, min(start + rows_per_block, len(shard)))
        with _as_damage():
            rows = shard.read(numbers)
        # In a packed record columns are not aligned, and numpy is slow on those.
        columns = {name: rows[name].copy() for name in manifest.page_format.columns}
        for fault in check(manifest, info, start, columns, counts):
            raise Damaged(f"{path}: {fault}; {_AGAIN}")
        progress(rows.nbytes)
    if manifest.kind == "stream":
        counts["tokens"] = info.tokens  # the filling is end-of-text too, so these were checked where they end
        counts["targets"] = max(info.tokens - 1, 0)
    if counts["tokens"] != info.tokens:
        raise Damaged(f"{path} holds {counts['tokens']} tokens without padding, {FILE} says {info.tokens}; {_AGAIN}")
    # Its bytes were just read, so this comes from memory.
    if (crc := crc32c_of_file(path)) != info.crc32c:
        raise Damaged(f"{path}: CRC-32C of the file is {crc}, {FILE} says {info.crc32c}; {_AGAIN}")
    return counts


def _check_stream(
    manifest: Manifest, info: ShardInfo, start: int, columns: dict[str, np.ndarray], counts: Counter[str]
) -> Iterator[str]:
    """A stream begins with end-of-text, ends with it, and is filled up with it to the end of the last row."""
    tokens, length, end = columns["tokens"].reshape(-1), manifest.row_length, manifest.eos_token_id
    first = start * length  # of the shard's tokens, the block's first
    if start == 0 and tokens[0] != end:
        yield f"record 0 begins with token {tokens[0]}, a stream begins with end-of-text ({end})"
    if start * length + len(tokens) == info.records * length:
        if not (info.records - 1) * length < info.tokens <= info.records * length:
            yield f"{info.records} records of {length} tokens cannot hold the {info.tokens} that {FILE} says"
        wrong = np.flatnonzero(tokens[info.tokens - 1 - first :] != end)
        if len(wrong):
            at = info.tokens - 1 + int(wrong[0])
            yield (
                f"record {at // length} has token {tokens[at - first]} at {at % length}, where only end-of-text "
                f"({end}) may stand if the shard holds the {info.tokens} tokens that {FILE} says"
            )
    inside = tokens[: max(info.tokens - first, 0)]
    counts["parts"] += int(np.count_nonzero(inside == end)) - (start == 0)


def _check_dialogue(
    manifest: Manifest, info: ShardInfo, start: int, columns: dict[str, np.ndarray], counts: Counter[str]
) -> Iterator[str]:
    """Segments count up from 1 and end in padding; weights are 0 where nothing predicts a token."""
    segments_BT, weights_BT, roles_BT = columns["segments"], columns["weights"], columns["roles"]
    before_BT, after_BT = segments_BT[:, :-1], segments_BT[:, 1:]
    same_BT = after_BT == before_BT
    padding_BT = segments_BT == 0
    weighted_BT = weights_BT != 0
    # A segment may be followed by itself, by the next one, or by padding; padding by padding only.
    good_BT = same_BT | padding_BT[:, 1:] | ((after_BT == before_BT + np.uint16(1)) & ~padding_BT[:, :-1])
    unpredicted_BT = padding_BT.copy()
    unpredicted_BT[:, 0] = True
    unpredicted_BT[:, 1:] |= ~same_BT
    for wrong_BT, column_BT, what in (
        (segments_BT[:, :1] != 1, segments_BT, "segment {} at {}, a row begins with segment 1"),
        (~good_BT, after_BT, "segment {} after {} tokens, segments count up from 1 by one and end in padding (0)"),
        (roles_BT > 1, roles_BT, "role {} at {}, a role is 0 or 1"),
        (~(np.isfinite(weights_BT) & (weights_BT >= 0)), weights_BT, "weight {} at {}, a weight is finite and not < 0"),
        (unpredicted_BT & weighted_BT, weights_BT, "weight {} at {}, a segment's first token and padding have 0"),
    ):
        if wrong_BT.any():
            row, at = np.argwhere(wrong_BT)[0]
            yield f"record {start + int(row)} has " + what.format(column_BT[row, at], at + (column_BT is after_BT))
    counts["tokens"] += segments_BT.size - int(np.count_nonzero(padding_BT))
    counts["targets"] += int(np.count_nonzero(weighted_BT))
    counts["parts"] += int(segments_BT.max(axis=1).sum())


def _check_split(manifest: Manifest, folder: Path, name: str, found: Counter[str]) -> None:
    split = manifest.splits[name]
    for what, says in (("tokens", split.tokens), ("targets", split.targets)):
        if found[what] != says:
            raise Damaged(f"{folder / FILE}: split {name} says {says} {what}, its shards hold {found[what]}; {_AGAIN}")
    if split.documents > found["parts"]:  # there may be fewer documents, since a long conversation is cut
        parts = f"{found['parts']} {'ends of documents' if manifest.kind == 'stream' else 'segments'}"
        raise Damaged(
            f"{folder / FILE}: split {name} says {split.documents} documents, its shards hold {parts}; {_AGAIN}"
        )


@contextmanager
def _as_damage() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise Damaged(str(error)) from None
