"""Plain UTF-8 text: a file is a document, or documents are parted by a line of their own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from data_prep.sources.chunk import MAX_BYTES, Chunk, Dropped
from data_prep.sources.files import DAMAGE, FileSource, InputFile, opened, with_bases
from data_prep.sources.lines import line_chunks, text_of


@dataclass(frozen=True)
class Text(FileSource):
    """separator: the line between two documents, without its line end; None makes each file one document."""

    separator: str | None = None
    holds: ClassVar[Literal["documents"]] = "documents"

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        if self.separator is not None:
            return self._chunks_between_separators(begin, chunk_bytes)
        return self._chunks_of_files(chunk_bytes)

    def _chunks_between_separators(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        for file, base in with_bases(self.files, begin):
            newline = _newline(file)
            ending = f"{newline}{self.separator}{newline}".encode()
            for chunk in line_chunks((file,), max(begin - base, 0), chunk_bytes, ending):
                yield replace(chunk, position=base + chunk.position)

    def _chunks_of_files(self, chunk_bytes: int) -> Iterator[Chunk]:
        """Small files go together, large ones alone; the worker reads them."""
        position, group, n_bytes = 0, list[str](), 0
        for file in self.files:
            if group and n_bytes + file.bytes > chunk_bytes:
                yield Chunk(position, group[0], 0, tuple(group))
                position, group, n_bytes = position + n_bytes, [], 0
            group.append(file.path)
            n_bytes += file.bytes
        yield Chunk(position, group[0], 0, tuple(group))

    def read(self, chunk: Chunk) -> Iterator[str | Dropped]:
        if self.separator is None:
            for path in chunk.data:
                yield _whole(path)
            return
        document: list[str] = []
        for line in text_of(chunk).removesuffix("\n").split("\n"):
            if line.rstrip("\r") == self.separator:
                yield "\n".join(document).removesuffix("\r")
                document = []
            else:
                document.append(line)
        if document:
            yield "\n".join(document).removesuffix("\r")


def _newline(file: InputFile) -> str:
    """How the file's first line ends."""
    with opened(file.path) as (content, _):
        try:
            return "\r\n" if content.readline(MAX_BYTES).endswith(b"\r\n") else "\n"
        except DAMAGE:
            return "\n"  # reading it will say what is wrong


def _whole(path: str) -> str | Dropped:
    with opened(path) as (content, _):
        try:
            data = content.read(MAX_BYTES + 1)
        except DAMAGE as error:
            return Dropped("damaged file", f"{path}: {error}", damaged=True)
    if len(data) > MAX_BYTES:
        return Dropped(f"document of over {MAX_BYTES >> 20} MiB", path, damaged=True)
    return text_of(Chunk(0, path, 0, data))
