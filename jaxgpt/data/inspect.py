"""A folder of pages for people to look at: what its manifest says, and rows as text."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jaxgpt.data.manifest import FILE, TOKENIZER_FOLDER, Manifest, ShardInfo, SplitInfo
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError

_ROLES = ("36", "33")  # cyan and yellow, in ANSI's numbers
_DIM, _BOLD = "2", "1"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Run:
    """Tokens of a row that stand together and have the same segment, role and weight. segment 0 is padding."""

    text: str
    tokens: int
    segment: int
    role: int
    weight: float


def locate(path: Path) -> tuple[Path, str | None]:
    """(folder, name of the shard) of a folder of pages or of one of its shards."""
    if path.is_file():
        return path.parent, path.name
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of pages or one of its shards")
    return path, None


def split_of_shard(manifest: Manifest, folder: Path, shard: str) -> str:
    for name, split in manifest.splits.items():
        if any(info.file == shard for info in split.shards):
            return name
    raise UserError(f"{folder / FILE} names no shard {shard}; give one that it names, or the folder")


def has_colour(stream: TextIO) -> bool:
    """Whether text may carry colours: in a terminal, unless the environment says NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def summary(manifest: Manifest) -> dict[str, Any]:
    """What the manifest says, in the terms that the table shows."""
    return {
        "kind": manifest.kind,
        "tokenizer": manifest.tokenizer,
        "vocab_size": manifest.vocab_size,
        "row_length": manifest.row_length,
        "format": manifest.dialogue_format,
        "loss_on": manifest.loss_on,
        "splits": {name: _split(manifest, split) for name, split in manifest.splits.items()},
        "sources": manifest.sources,
    }


def _split(manifest: Manifest, split: SplitInfo) -> dict[str, int | float]:
    return {
        "shards": len(split.shards),
        "documents": split.documents,
        "rows": split.records,
        "tokens": split.tokens,
        "targets": split.targets,
        "fill": round(split.tokens / max(split.records * manifest.row_length, 1), 4),
        "bytes_per_token": round(split.text_bytes / max(split.targets, 1), 4),
    }


def table(manifest: Manifest) -> Iterator[str]:
    """The lines of the table; what was left out comes with examples where the manifest has some."""
    facts = summary(manifest)
    splits, sources = facts.pop("splits"), facts.pop("sources")
    for name, value in facts.items():
        if value is not None:
            yield f"{name.replace('_', ' '):12} {f'{value:,}' if isinstance(value, int) else plain(value)}"
    columns = ("shards", "documents", "rows", "tokens", "targets", "fill", "bytes_per_token")
    width = max(len(name) for name in ("split", *splits))
    yield ""
    yield f"{'split':{width}}" + "".join(f"{name.replace('_per_', '/'):>16}" for name in columns)
    for name, counts in splits.items():
        cells = {**{key: f"{value:,}" for key, value in counts.items()}, "fill": f"{counts['fill']:.1%}"}
        yield f"{name:{width}}" + "".join(f"{cells[key]:>16}" for key in columns)
    for source in sources:
        yield ""
        yield plain(str(source.get("source")))
        for name, count in source.items():
            if isinstance(count, int):
                yield f"  {count:>16,}  {plain(name.replace('_', ' '))}"
                for text in source.get("examples", {}).get(name.removeprefix("dropped: "), []):
                    yield f"  {'':16}    {plain(' '.join(text.split()))[:100]}"


def rows(manifest: Manifest, folder: Path, split: str, shard: str | None, count: int, colour: bool) -> Iterator[str]:
    """The first rows of a split, or of one of its shards, as text.

    In colour a speaker has a colour, and what does not count in the loss is dim. Without, each stretch has a line of
    its own that begins with its role and weight.
    """
    tokenizer = load_tokenizer(str(folder / TOKENIZER_FOLDER))
    for info, opened in zip(manifest.split(split, folder).shards, manifest.open_shards(folder, split), strict=True):
        if shard not in (None, info.file):
            continue
        for number, record in enumerate(opened.read(np.arange(min(count, len(opened))))):
            runs = _stream_runs(manifest, info, number, record["tokens"], tokenizer)
            if manifest.kind == "dialogue":
                runs = _dialogue_runs(record, tokenizer)
            yield from _row(f"{info.file} row {number}", runs, colour)
        count -= min(count, len(opened))


def _stream_runs(
    manifest: Manifest, info: ShardInfo, number: int, tokens: np.ndarray, tokenizer: Tokenizer
) -> list[Run]:
    """A shard's first token is predicted by nothing; what fills up its last row is padding."""
    at = np.arange(len(tokens)) + number * manifest.row_length
    weights, segments = (at > 0).astype(np.float32), (at < info.tokens).astype(np.uint16)
    return _runs(tokens, segments, np.zeros(len(tokens), np.uint8), weights * segments, tokenizer)


def _dialogue_runs(record: np.void, tokenizer: Tokenizer) -> list[Run]:
    return _runs(record["tokens"], record["segments"], record["roles"], record["weights"], tokenizer)


def _runs(
    tokens: np.ndarray, segments: np.ndarray, roles: np.ndarray, weights: np.ndarray, tokenizer: Tokenizer
) -> list[Run]:
    """Arrays of one row's length -> its runs in order."""
    changes = (np.diff(segments) != 0) | (np.diff(roles) != 0) | (np.diff(weights) != 0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(tokens)]
    return [
        Run(
            plain(tokenizer.decode(tokens[start:stop].tolist())),
            stop - start,
            int(segments[start]),
            int(roles[start]),
            float(weights[start]),
        )
        for start, stop in pairwise(edges)
    ]


def _row(name: str, runs: list[Run], colour: bool) -> Iterator[str]:
    length, padding = sum(run.tokens for run in runs), sum(run.tokens for run in runs if not run.segment)
    head = f"{name}: {length - padding:,} of {length:,} tokens"
    yield ""
    yield f"\x1b[{_BOLD}m{head}\x1b[0m" if colour else head
    for segment in sorted({run.segment for run in runs if run.segment}):
        of_segment = [run for run in runs if run.segment == segment]
        if colour:
            yield f"{segment:>3} " + "".join(_painted(run) for run in of_segment)
        else:
            yield from (f"{segment:>3} [role {run.role}, weight {run.weight:g}] {run.text}" for run in of_segment)


def _painted(run: Run) -> str:
    if run.weight == 0:
        return f"\x1b[{_DIM};{_ROLES[run.role % 2]}m{run.text}\x1b[0m"
    mark = "" if run.weight == 1 else f"\x1b[7m {run.weight:g} \x1b[0m"
    return f"{mark}\x1b[{_ROLES[run.role % 2]}m{run.text}\x1b[0m"


def plain(text: str) -> str:
    """Text without what a terminal would obey: control characters other than new line and tab are spelled out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
