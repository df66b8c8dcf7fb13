"""A data set of Hugging Face's `datasets`, streamed. The package is optional."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.sources.chunk import Chunk
from data_prep.sources.examples import ExampleSource, example_chunks, holds_of
from jaxgpt.errors import UserError

_BYTES_PER_FILE = 1 << 30  # a guess, for data sets that do not say how large they are


@dataclass(frozen=True)
class HuggingFace(ExampleSource):
    """name: on the hub, or a local folder. Where the data set does not tell its size, its files count as equal."""

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        stream = _stream(self.spec, self.name, self.split)
        if self.n_examples:
            yield from example_chunks(stream, self.spec, self.field, 0, self.size, self.n_examples, chunk_bytes)
            return
        for index in range(stream.num_shards):
            part, base = stream.shard(stream.num_shards, index), index * _BYTES_PER_FILE
            yield from example_chunks(part, self.spec, self.field, base, _BYTES_PER_FILE, 0, chunk_bytes)


def open_huggingface(spec: str, target: str, field: str) -> HuggingFace:
    """target: NAME[:split]; the split is train unless named. UserError where there is no such data."""
    name, _, split = target.partition(":")
    split = split or "train"
    stream = _stream(spec, name, split)
    try:
        first = next(iter(stream), None)
    except Exception as error:
        raise _unusable(spec, error) from None
    if first is None:
        raise UserError(f"--source {spec}: the split {split!r} has no examples")
    info = (stream.info.splits or {}).get(split)
    n_examples, n_bytes = (info.num_examples or 0, info.num_bytes or 0) if info else (0, 0)
    size = max(n_bytes, n_examples) or _BYTES_PER_FILE * stream.num_shards
    holds = holds_of(first, spec, field)
    version = f"{stream.info.version} {_state_of_files(name, split)}"
    return HuggingFace(spec, name, split, field, holds, size, n_examples, version)


def _stream(spec: str, name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(f"--source {spec} needs the package datasets; pip install datasets") from None
    try:
        return datasets.load_dataset(name, split=split, streaming=True)
    except Exception as error:  # the library raises several kinds, of its own and of its back ends
        raise _unusable(spec, error) from None


def _state_of_files(name: str, split: str) -> str:
    """What changes with the data: their addresses, which hold the commit on the hub; sizes and times of local files."""
    import datasets

    files = datasets.load_dataset_builder(name).config.data_files or {}
    states = [
        f"{path} {Path(path).stat().st_size} {Path(path).stat().st_mtime_ns}" if Path(path).is_file() else str(path)
        for path in files.get(split, [])
    ]
    return hashlib.sha256("\n".join(states).encode()).hexdigest()


def _unusable(spec: str, error: Exception) -> UserError:
    return UserError(
        f"--source {spec}: {' '.join(str(error).split())[:300]}; check the name, the split and the network"
    )
