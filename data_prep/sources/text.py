"""Plain UTF-8 text: a file is a document, or documents are parted by a line of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data_prep.sources.chunk import MAX_BYTES, Chunk, Dropped
from data_prep.sources.files import DAMAGE, InputFile, fingerprint, opened, total_bytes
from data_prep.sources.lines import line_chunks, text_of


@dataclass(frozen=True)
class Text:
    """separator: the line between two documents, without its line end; None makes each file one document."""

    spec: str
    files: tuple[InputFile, ...]
    separator: str | None = None
    holds: ClassVar[Literal["documents"]] = "documents"

    @property
    def size(self) -> int:
        return total_bytes(self.files)

    def fingerprint(self) -> list[dict[str, Any]]:
        return fingerprint(self.files)

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        if self.separator is not None:
            return line_chunks(self.files, begin, chunk_bytes, f"\n{self.separator}\n".encode())
        return self._chunks_of_files(chunk_bytes)

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
            if line == self.separator:
                yield "\n".join(document)
                document = []
            else:
                document.append(line)
        if document:
            yield "\n".join(document)


def _whole(path: str) -> str | Dropped:
    with opened(path) as (content, _):
        try:
            data = content.read(MAX_BYTES + 1)
        except DAMAGE as error:
            return Dropped("damaged file", f"{path}: {error}", damaged=True)
    if len(data) > MAX_BYTES:
        return Dropped(f"document of over {MAX_BYTES >> 20} MiB", path, damaged=True)
    return text_of(Chunk(0, path, 0, data))
