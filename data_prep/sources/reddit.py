"""Conversations from Reddit's dumps: every path down a tree of comments, as DialoGPT makes them.

The dumps (RC_* of comments, RS_* of submissions, an object per line, in the order of time) have the parts of one tree
far apart and are larger than memory. So the first call partitions them: one pass drops what the filters for turns
refuse and appends the rest to buckets by a hash of the submission; then each bucket gives whole trees by itself.
"""

import html
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from json.encoder import encode_basestring
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.files import FileSource
from data_prep.sources.jsonl import json_values
from data_prep.sources.lines import line_chunks, where
from data_prep.sources.reddit_filters import RedditFilters
from data_prep.sources.reddit_paths import COMMENT, SUBMISSION, Row, Tally, conversations
from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

_HINT = "a line of a Reddit dump is an object with body, link_id and parent_id (a comment) or with title (a submission)"
_WANTED_BYTES = 4 << 20  # of a bucket, by an estimate from the input's size
_MOST_BUCKETS = 1000
_PART_BYTES = 32 << 20  # a larger bucket is read in parts of about this, so that memory has a bound all the same
_BUFFER_BYTES = 32 << 20  # of all buckets together, before they are appended to their files
_READ_BYTES = 1 << 20
_COUNTS = 64  # positions set aside for what the partition counted; there are fewer reasons than that
_FORMAT = 1  # of the buckets
_COMMENT = itemgetter("id", "link_id", "parent_id", "body")


@dataclass(frozen=True)
class Bucket:
    """What a chunk holds: the trees of a bucket's file, those of one part where it is large."""

    path: str
    part: int
    parts: int


@dataclass(frozen=True)
class Reddit(FileSource):
    """scratch: a folder on a local disk for the buckets, of this source alone; a finished partition of the same files
    with the same filters is used again, anything else that an earlier call left there is made anew.
    """

    scratch: str
    filters: RedditFilters = field(default_factory=RedditFilters)
    holds: ClassVar[Literal["dialogue"]] = "dialogue"

    @property
    def size(self) -> int:
        return self._counts + super().size

    @property
    def _counts(self) -> int:
        # Beside the reasons, every file may be damaged and hold lines that are too long.
        return _COUNTS + 2 * len(self.files)

    def unsplittable(self) -> list[tuple[int, int]]:
        return []  # the buckets are plain files

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        """What the partition counted, then a chunk per bucket; `chunk_bytes` has no say, the input's size decides."""
        made = self._made() or self._partition()
        for position, count in enumerate(made["dropped"]):
            if position >= begin:
                yield Chunk(position, self.files[0].path, 0, Dropped(**count))
        buckets = [
            Bucket(str(self._bucket_path(number)), part, parts)
            for number, size in enumerate(made["buckets"])
            if size
            for parts in [math.ceil(size / _PART_BYTES)]
            for part in range(parts)
        ]
        for number, bucket in enumerate(buckets):
            position = self._counts + number * super().size // len(buckets)
            if position >= begin:
                yield Chunk(position, bucket.path, 0, bucket)

    def read(self, chunk: Chunk) -> Iterator[Conversation | Dropped]:
        bucket: Bucket = chunk.data
        trees: dict[bytes, list[bytes]] = {}
        with open(bucket.path, "rb") as lines:
            for line in lines:
                submission = line[: line.index(b",")]
                if bucket.parts == 1 or (zlib.crc32(submission) >> 16) % bucket.parts == bucket.part:
                    trees.setdefault(submission, []).append(line)
        tally = Tally()
        for tree in trees.values():
            yield from conversations([json.loads(line) for line in tree], self.filters, tally)
        yield from tally.dropped()

    def _bucket_path(self, number: int) -> Path:
        return Path(self.scratch, f"bucket-{number:03d}.jsonl")

    @property
    def _marker(self) -> Path:
        return Path(self.scratch, "partition.json")

    def _made_from(self) -> dict[str, Any]:
        made_from = {"format": _FORMAT, "files": self.fingerprint(), "filters": asdict(self.filters)}
        return json.loads(json.dumps(made_from))

    def _made(self) -> dict[str, Any] | None:
        """The marker of a finished partition of these files with these filters, if its buckets are still there."""
        try:
            made = json.loads(self._marker.read_bytes())
            sizes = [self._bucket_path(number).stat().st_size for number in range(len(made["buckets"]))]
        except (FileNotFoundError, ValueError):  # ValueError: a marker that a crash of the machine left empty
            return None
        return made if made["made_from"] == self._made_from() and made["buckets"] == sizes else None

    def _partition(self) -> dict[str, Any]:
        """Write the buckets, and the marker last: {made_from, dropped, buckets: their sizes in bytes}."""
        with _writing(self.scratch):
            Path(self.scratch).mkdir(parents=True, exist_ok=True)
            self._marker.unlink(missing_ok=True)
            for path in Path(self.scratch).glob("bucket-*.jsonl"):
                path.unlink()
        # About what the default filters leave of a packed and of a plain dump.
        expected = sum(file.bytes if file.packed else file.bytes // 8 for file in self.files)
        buffers = [bytearray() for _ in range(min(max(expected // _WANTED_BYTES, 1), _MOST_BUCKETS))]
        damage: dict[tuple[str, str], Dropped] = {}
        tally, buffered = Tally(), 0
        with progress_bar(total=super().size, desc="sort Reddit", unit="B", unit_scale=True) as bar:
            for chunk in line_chunks(self.files, 0, _READ_BYTES):
                bar.update(chunk.position - bar.n)
                if isinstance(chunk.data, Dropped):
                    earlier = damage.get((chunk.data.reason, chunk.file))
                    count = earlier.count + 1 if earlier else 1
                    damage[chunk.data.reason, chunk.file] = replace(chunk.data, count=count)
                    continue
                for row in self._turns(chunk, tally):
                    line = f"[{','.join(map(encode_basestring, row))}]\n".encode()
                    buffers[zlib.crc32(row[0].encode()) % len(buffers)] += line
                    buffered += len(line)
                if buffered > _BUFFER_BYTES:
                    self._append(buffers)
                    buffered = 0
        self._append(buffers)
        made = {
            "made_from": self._made_from(),
            "dropped": [asdict(dropped) for dropped in [*damage.values(), *tally.dropped()]],
            "buckets": [self._bucket_path(number).stat().st_size for number in range(len(buffers))],
        }
        unfinished = self._marker.with_suffix(".tmp")
        with _writing(self.scratch):
            unfinished.write_text(json.dumps(made))
            unfinished.replace(self._marker)
        return made

    def _append(self, buffers: list[bytearray]) -> None:
        """Every buffer to its bucket's file, one open at a time."""
        for number, buffer in enumerate(buffers):
            with _writing(self.scratch), open(self._bucket_path(number), "ab") as file:
                file.write(buffer)
            buffer.clear()

    def _turns(self, chunk: Chunk, tally: Tally) -> Iterator[Row]:
        """What the filters leave of the chunk's comments and titles."""
        filters = self.filters
        for number, value in json_values(chunk, _HINT):
            try:
                kind, name, link, parent, text, score = _fields(value)
            except _UnfitError as error:
                raise UserError(f"{where(chunk, number)}: {error}; {_HINT}") from None
            if kind == "submission" and not filters.titles:
                tally.add("submission, because its title is no turn without titles", name, text)
                continue
            why = filters.why_origin(value.get("author") or "", value.get("subreddit") or "", score)
            if why is None:
                # The dumps hold text with the characters <, > and & as HTML has them.
                text = (html.unescape(text) if "&" in text else text).strip()
                why = filters.why_text(text)
            if why is None:
                yield link, name, parent, text
            else:
                tally.add(f"{kind} {why}", name, text)


@contextmanager
def _writing(scratch: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or scratch} cannot be written ({error.strerror}); Reddit's comments are "
            "sorted there: make room, or name another folder on a local disk"
        ) from None


class _UnfitError(ValueError):
    """A value that is neither a comment nor a submission."""


def _fields(value: Any) -> tuple[str, str, str, str, str, int | None]:
    """(kind, full name, submission's full name, full name of what it replies to, text, score)"""
    try:
        if "title" in value:
            name, text = value["id"], value["title"]
            if type(name) is type(text) is str:
                return "submission", SUBMISSION + name, SUBMISSION + name, "", text, None
        else:
            name, link, parent, text = _COMMENT(value)
            score = value.get("score")
            if type(name) is type(link) is type(parent) is type(text) is str and (score is None or type(score) is int):
                return "comment", COMMENT + name, link, parent, text, score or 0
    except (TypeError, KeyError, AttributeError):
        pass
    if not isinstance(value, dict):
        raise _UnfitError(f"found {json.dumps(value)[:60]}")
    for key in ("id", "title") if "title" in value else ("body", "id", "link_id", "parent_id"):
        if not isinstance(value.get(key), str):
            found = f"{json.dumps(value[key])[:60]} as its {key}" if key in value else f"no {key}"
            raise _UnfitError(f"found {found}, where text should stand")
    raise _UnfitError(
        f"found {json.dumps(value['score'])[:60]} as its score, where a whole number or null should stand"
    )
