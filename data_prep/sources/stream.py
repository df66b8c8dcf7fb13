"""Conversations from files that can only be read from their start: JSON of one value, CSV, text of many lines.

Such a file may have any size: it is read piece by piece, and no more of it is kept than one chunk.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import ijson

from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.files import DAMAGE, InputFile, opened, with_bases
from data_prep.sources.turns import DialogueFiles
from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError

_PIECE = 1 << 16
# The JSON of a MultiWOZ dialogue has some 30 KB; as Python objects JSON needs up to 25 times its bytes.
_MAX_BYTES = 1 << 24
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class StreamedFiles(DialogueFiles):
    """Files in which a conversation is found only by reading from the start."""

    def unsplittable(self) -> list[tuple[int, int]]:
        return [(base, base + file.bytes) for file, base in with_bases(self.files, 0)]


class Stream(io.BufferedIOBase):
    """A file's content as bytes, in pieces of at most 64 KiB, without a byte order mark.

    head: how it begins, without white space; path: for messages; at: how many bytes have been given out.
    Raises UserError when a conversation has over 16 MiB, so that a file of another kind does not fill the memory.
    """

    def __init__(self, content: IO[bytes], path: str):
        # A damaged file's read() loses what it has decompressed already; read1() gives it out first.
        self._read_some = getattr(content, "read1", content.read)
        self.path, self.at, self._last_mark = path, 0, 0
        self._waiting = self._read_some(_PIECE).removeprefix(_BOM)
        self.head = self._waiting.lstrip()

    def mark(self) -> None:
        """A conversation is complete."""
        self._last_mark = self.at

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        limit = _PIECE if size < 0 else min(size, _PIECE)
        data = self._waiting or self._read_some(limit)
        piece, self._waiting = data[:limit], data[limit:]
        self.at += len(piece)
        if self.at - self._last_mark > _MAX_BYTES:
            raise UserError(
                f"{self.path}: over {_MAX_BYTES >> 20} MiB from byte {self._last_mark} on are no conversation; check "
                "that the file is of the kind that --source says"
            )
        return piece

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(-1 if size is None else size)


def stream_chunks(
    files: tuple[InputFile, ...],
    begin: int,
    chunk_bytes: int,
    conversations: Callable[[Stream], Iterator[Conversation]],
) -> Iterator[Chunk]:
    """Chunks of about `chunk_bytes` of text; their data is a tuple of conversations. A zip counts as the file in it."""
    for file, base in with_bases(files, begin):
        position, offset, n_bytes = 0, 0, 0
        found: list[Conversation] = []
        damage = None
        with opened(file.path) as (content, raw):
            try:
                with _unzipped(content, file.path) as inner:
                    stream = Stream(inner, file.path)
                    for conversation in conversations(stream):
                        stream.mark()
                        found.append(conversation)
                        n_bytes += sum(len(turn.text) for turn in conversation.turns)
                        if n_bytes >= chunk_bytes:
                            yield Chunk(base + position, file.path, offset, tuple(found))
                            position = min(raw.tell(), file.bytes - 1)
                            offset, n_bytes, found = stream.at, 0, []
            except (*DAMAGE, zipfile.BadZipFile) as error:
                damage = Dropped("damaged file", f"{file.path}: {error}", damaged=True)
        if found:
            yield Chunk(base + position, file.path, offset, tuple(found))
        if damage:
            yield Chunk(base + position, file.path, offset, damage)


@contextmanager
def _unzipped(content: IO[bytes], path: str) -> Iterator[IO[bytes]]:
    """The one JSON file in a zip, or the content itself where it is none."""
    magic = content.read(4)
    content.seek(0)
    if magic != b"PK\x03\x04":
        yield content
        return
    with zipfile.ZipFile(content) as archive:
        names = [name for name in archive.namelist() if name.endswith(".json")]
        if len(names) != 1:
            raise UserError(
                f"{path} holds {len(names)} .json files ({', '.join(names)[:200]}) where one is expected; unpack it "
                "and name the right ones"
            )
        with archive.open(names[0]) as member:
            yield member


def json_items(stream: Stream) -> Iterator[tuple[str, Any]]:
    """(place for a message, value) of each item of a JSON array."""
    with _json_errors(stream):
        for number, value in enumerate(ijson.items(stream, "item", use_float=True), start=1):
            yield f"{stream.path}: dialogue {number}", value


def json_fields(stream: Stream) -> Iterator[tuple[str, Any]]:
    """(place for a message, value) of each field of a JSON object."""
    with _json_errors(stream):
        for name, value in ijson.kvitems(stream, "", use_float=True):
            yield f"{stream.path}: dialogue {name}", value


@contextmanager
def _json_errors(stream: Stream) -> Iterator[None]:
    """Raises EOFError, one of DAMAGE, where the file ends too soon, and UserError for what is not JSON."""
    try:
        yield
    except ijson.JSONError as error:
        message = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        reason = message.split("\n")[0].strip()
        if "premature EOF" in reason:
            raise EOFError("the JSON ends in the middle") from None
        raise UserError(
            f"{stream.path}: not JSON between byte {max(stream.at - _PIECE, 0)} and byte {stream.at} ({reason}); check "
            "that the file is whole and UTF-8"
        ) from None


def text_lines(stream: Stream) -> Iterator[str]:
    """Lines with their ends as they are; UserError with file and line for what is not UTF-8."""
    with io.TextIOWrapper(cast(IO[bytes], stream), encoding="utf-8", errors="surrogateescape", newline="") as text:
        for number, line in enumerate(text, start=1):
            if bad := re.search("[\ud800-\udfff]", line):
                raise UserError(
                    f"{stream.path}:{number}: byte 0x{ord(bad[0]) - 0xDC00:02x} is not UTF-8; convert the file, with "
                    "`iconv -f LATIN1 -t UTF-8` for example"
                )
            yield line
