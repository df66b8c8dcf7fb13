"""The files behind `--source`, and how they are dealt out to shards."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.build import SOURCES
from data_prep.sources.block import Block
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Source:
    spec: str
    kind: str
    paths: tuple[Path, ...]


def find_sources(specs: list[str]) -> list[Source]:
    """The files behind each KIND:PATH, in sorted order."""
    sources = []
    for spec in specs:
        kind, colon, pattern = spec.partition(":")
        if not colon or kind not in SOURCES:
            raise UserError(f"--source {spec}: write KIND:PATH with one of the kinds {', '.join(SOURCES)}")
        paths = tuple(Path(path) for path in sorted(glob.glob(pattern, recursive=True)) if Path(path).is_file())
        if not paths:
            raise UserError(f"--source {spec}: no file matches {pattern}; check the path")
        sources.append(Source(spec, kind, paths))
    kinds = {source.kind for source in sources}
    if len(kinds) > 1:
        raise UserError(
            f"--source mixes the kinds {' and '.join(sorted(kinds))}, whose pages differ; build a folder for each"
        )
    return sources


def assign(sources: list[Source], n_shards: int) -> Iterator[tuple[tuple[int, str, Block], ...]]:
    """The blocks of each shard, dealt in turn."""
    blocks = [
        (number, source.kind, block)
        for number, source in enumerate(sources)
        for path in source.paths
        for block in SOURCES[source.kind].blocks(path)
    ]
    for index in range(n_shards):
        yield tuple(blocks[index::n_shards])
