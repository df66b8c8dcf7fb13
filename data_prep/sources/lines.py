"""Files of lines as chunks of whole lines, and lines that can say where they stand."""

from collections.abc import Iterator
from typing import IO

from data_prep.sources.chunk import MAX_BYTES, Chunk, Dropped
from data_prep.sources.files import DAMAGE, InputFile, opened, with_bases
from jaxgpt.errors import UserError


def line_chunks(files: tuple[InputFile, ...], begin: int, chunk_bytes: int, ending: bytes = b"\n") -> Iterator[Chunk]:
    """Chunks of whole lines, each but the last closed by `ending`, whatever the files' compression.

    The k-th chunk of a file holds the lines that end in the k-th `chunk_bytes` of its content.
    """
    for file, base in with_bases(files, begin):
        for position, offset, data in _cut(file, begin - base, chunk_bytes, ending):
            yield Chunk(base + position, file.path, offset, data)


def _cut(file: InputFile, begin: int, chunk_bytes: int, ending: bytes) -> Iterator[tuple[int, int, bytes | Dropped]]:
    """(position in the file on disk, offset in its content, lines)"""
    with opened(file.path) as (content, raw):
        offset, tail, before = (
            0,
            bytearray(),
            b"",
        )  # where the open line begins, its bytes, what an ending may have begun in
        if begin > 0 and not file.packed:
            raw.seek(begin // chunk_bytes * chunk_bytes)
            tail[:], before = _tail_before(raw, ending)
            offset = raw.tell() - len(tail)
        read, too_long = offset + len(tail), len(tail) > MAX_BYTES
        while True:
            position = min(raw.tell(), file.bytes - 1)
            piece, error = _read(content, chunk_bytes)
            if not piece and not error:  # the last line of a file needs no ending
                if too_long:
                    yield position, read, _too_long(file)
                elif tail:
                    yield position, offset, bytes(tail)
                return
            searched = before + piece
            if ending in searched:
                start, stop = 0, searched.rfind(ending) + len(ending) - len(before)
                if too_long:
                    yield position, read, _too_long(file)
                    start = searched.find(ending) + len(ending) - len(before)
                    offset, tail, too_long = read + start, bytearray(), False
                if tail or start < stop:
                    yield position, offset, bytes(tail) + piece[start:stop]
                offset, tail = read + stop, bytearray(piece[stop:])
            elif not too_long:
                tail += piece
            if len(tail) > MAX_BYTES:
                too_long, tail = True, bytearray()
            read += len(piece)
            before = searched[max(len(searched) - len(ending) + 1, 0) :]
            if error:
                yield position, read, Dropped("damaged file", f"{file.path}: {error}", damaged=True)
                return


def _too_long(file: InputFile) -> Dropped:
    return Dropped(f"line of over {MAX_BYTES >> 20} MiB", file.path, damaged=True)


def _read(content: IO[bytes], size: int) -> tuple[bytes, Exception | None]:
    """The next `size` bytes, or less at the end of the file and before damage; and the damage."""
    # read() would lose what it has decompressed when it comes to the damage.
    read_some = getattr(content, "read1", content.read)
    pieces, missing = list[bytes](), size
    try:
        while missing and (piece := read_some(missing)):
            pieces.append(piece)
            missing -= len(piece)
    except DAMAGE as error:
        return b"".join(pieces), error
    return b"".join(pieces), None


def _tail_before(raw: IO[bytes], ending: bytes) -> tuple[bytes, bytes]:
    """The bytes so far of the line that the stream stands in, and the last bytes in which an ending may have begun.

    Of a line of over MAX_BYTES no more than that and one. The stream stays where it is.
    """
    here = raw.tell()
    size = min(1 << 16, MAX_BYTES + 1)
    while True:
        start = max(here - size, 0)
        raw.seek(start)
        data = raw.read(here - start)
        cut = data.rfind(ending)
        if cut >= 0 or start == 0 or size > MAX_BYTES:
            return data[cut + len(ending) if cut >= 0 else 0 :], data[max(len(data) - len(ending) + 1, 0) :]
        size = min(size * 4, MAX_BYTES + 1)


def lines(chunk: Chunk) -> Iterator[tuple[int, str]]:
    """(number within the chunk, text without line end) of each line that is not blank; UserError if not UTF-8."""
    for number, line in enumerate(text_of(chunk).split("\n")):
        if line and not line.isspace():
            yield number, line.rstrip("\r")


def text_of(chunk: Chunk) -> str:
    """The chunk's bytes as UTF-8 text, without a byte order mark; UserError with file and line otherwise."""
    try:
        return chunk.data.decode("utf-8-sig" if chunk.offset == 0 else "utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(chunk, chunk.data[: error.start].count(b"\n"), error) from None


def not_utf8(chunk: Chunk, number: int, error: UnicodeDecodeError) -> UserError:
    """What to raise for a line of the chunk that could not be decoded."""
    return UserError(
        f"{where(chunk, number)}: byte 0x{error.object[error.start]:02x} is not UTF-8; "
        "convert the file, with `iconv -f LATIN1 -t UTF-8` for example"
    )


def where(chunk: Chunk, number: int) -> str:
    """`file:line` of a line of the chunk; the lines before it are counted only now that somebody needs it."""
    line, left = 1 + number, chunk.offset
    with opened(chunk.file) as (content, _):
        while left > 0 and (piece := content.read(min(left, 1 << 20))):
            line += piece.count(b"\n")
            left -= len(piece)
    return f"{chunk.file}:{line}"
