"""OpenWebText as it was published: a tar of xz-packed tars of text files, read as one stream.

The outer archive (`openwebtext.tar.xz`, or a plain tar of a part of it) is walked here; each inner archive
(`urlsf_subset*.xz`) is a chunk that a worker decompresses. Nothing is ever written to the disk, so names within the
archives matter to nobody.
"""

import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from data_prep.sources.chunk import MAX_BYTES, Chunk, Dropped
from data_prep.sources.files import DAMAGE, FileSource, opened, with_bases
from data_prep.sources.tar import BrokenTarError, members

_DAMAGE = (*DAMAGE, BrokenTarError)


@dataclass(frozen=True)
class OpenWebText(FileSource):
    """Documents whose names end in .txt; other members of the inner archives are no text and are left out."""

    holds: ClassVar[Literal["documents"]] = "documents"

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        for file, base in with_bases(self.files, begin):
            with opened(file.path) as (content, raw):
                try:
                    for name, data in members(content, MAX_BYTES):
                        position = min(raw.tell(), file.bytes - 1)
                        what = f"{file.path}/{name}"
                        too_large = Dropped(f"archive of over {MAX_BYTES >> 20} MiB", what, damaged=True)
                        yield Chunk(base + position, what, 0, too_large if data is None else data)
                except _DAMAGE as error:
                    damaged = Dropped("damaged archive", f"{file.path}: {error}", damaged=True)
                    yield Chunk(base + min(raw.tell(), file.bytes - 1), file.path, 0, damaged)

    def read(self, chunk: Chunk) -> Iterator[str | Dropped]:
        try:
            if chunk.file.endswith(".txt"):
                yield _decoded(chunk.file, chunk.data)
                return
            inner = io.BufferedReader(lzma.LZMAFile(io.BytesIO(chunk.data)), 1 << 20)  # noqa: SIM115
            left = MAX_BYTES
            for name, data in members(inner, MAX_BYTES):
                where = f"{chunk.file}/{name}"
                left -= len(data or b"")
                if left < 0:
                    yield Dropped(f"rest of an inner archive of over {MAX_BYTES >> 20} MiB", where, damaged=True)
                    return
                if data is None:
                    yield Dropped(f"document of over {MAX_BYTES >> 20} MiB", where, damaged=True)
                elif name.endswith(".txt"):
                    yield _decoded(where, data)
                else:
                    yield Dropped("no .txt file", where)
        except _DAMAGE as error:
            yield Dropped("damaged archive", f"{chunk.file}: {error}", damaged=True)


def _decoded(where: str, data: bytes) -> str | Dropped:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Dropped("not UTF-8", where)
