"""Input files, local or in a bucket: found, and decompressed while they are read."""

import bz2
import glob
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from backports import zstd

from jaxgpt.data import storage
from jaxgpt.errors import UserError

_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".xz": lzma.LZMAFile,
    ".bz2": lambda raw: _Bz2File(raw),
    # Reddit's dumps were made with a window of 2 GiB.
    ".zst": lambda raw: zstd.ZstdFile(raw, options={zstd.DecompressionParameter.window_log_max: 31}),
}
# What the decompressors raise for input that is cut off or damaged.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError, gzip.BadGzipFile)


class _Bz2File(bz2.BZ2File):
    """Says of damage what the others say; bz2 calls it an OSError, like a disk that fails."""

    def read(self, size: int | None = -1) -> bytes:
        return self._or_damage(super().read, size)

    def read1(self, size: int = -1) -> bytes:
        return self._or_damage(super().read1, size)

    @staticmethod
    def _or_damage(read: Callable[[int], bytes], size: int | None) -> bytes:
        try:
            return read(-1 if size is None else size)
        except OSError as error:
            if error.errno is not None:
                raise
            raise EOFError(str(error)) from None


@dataclass(frozen=True)
class InputFile:
    """bytes: on disk; stamp: changes when the content does (modification time, or the bucket's checksum)."""

    path: str
    bytes: int
    stamp: str

    @property
    def packed(self) -> bool:
        return Path(self.path).suffix in _OPENERS


@dataclass(frozen=True)
class FileSource:
    """What sources of files have in common, whatever is in them."""

    spec: str
    files: tuple[InputFile, ...]

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.files)

    def fingerprint(self) -> list[dict[str, Any]]:
        return [asdict(file) for file in self.files]

    def unsplittable(self) -> list[tuple[int, int]]:
        return [(base, base + file.bytes) for file, base in with_bases(self.files, 0) if file.packed]


def find_files(spec: str, pattern: str) -> tuple[InputFile, ...]:
    """The files behind a path or glob, in sorted order; UserError where there are none, or one is empty."""
    if storage.is_remote(pattern):
        files = [InputFile(found.url, found.bytes, found.crc32c) for found in storage.find(pattern)]
    else:
        # A name may hold what a glob takes for a pattern.
        found = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
        paths = [Path(path) for path in found]
        stats = [(path, path.stat()) for path in paths if path.is_file()]
        files = [InputFile(str(path), stat.st_size, str(stat.st_mtime_ns)) for path, stat in stats]
    if not files:
        folder = Path(pattern).is_dir()
        hint = f"it is a folder; write '{pattern.rstrip('/')}/*'" if folder else "check the path"
        raise UserError(f"--source {spec}: no file matches {pattern}; {hint}")
    for file in files:
        if not file.bytes:
            raise UserError(f"{file.path} is empty; leave it out of --source")
    return tuple(files)


def with_bases(files: tuple[InputFile, ...], begin: int) -> Iterator[tuple[InputFile, int]]:
    """Each file with the position at which it begins, without those that end before position `begin`."""
    base = 0
    for file in files:
        if base + file.bytes > begin:
            yield file, base
        base += file.bytes


@contextmanager
def opened(path: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """(content, raw): the decompressed content as a stream, and the file on disk, whose `tell` is the progress."""
    with storage.open_binary(path) as raw:
        opener = _OPENERS.get(Path(path).suffix)
        if opener is None:
            yield raw, raw
            return
        with opener(raw) as content:
            yield content, raw
