"""What went in, what came out, and what did not: the table at the end of a build."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgpt.data.manifest import Manifest

_COLUMNS = ("files", "read", "kept", "dropped", "tokens", "bytes/token")


def report(manifest: Manifest, output: Path) -> None:
    rows = [_cells(source) for source in manifest.sources]
    width = max(len("source"), *(len(source["source"]) for source in manifest.sources))
    print(f"{'source':{width}}" + "".join(f"{name:>14}" for name in _COLUMNS))
    for source, cells in zip(manifest.sources, rows, strict=True):
        print(f"{source['source']:{width}}" + "".join(f"{cell:>14}" for cell in cells))
        for name, count in source.items():
            if isinstance(count, int) and count and name not in (*_COLUMNS, "text_bytes"):
                print(f"  {name.replace('_', ' ')}: {count:,}")
    for name, split in manifest.splits.items():
        filled = split.tokens / max(split.records * manifest.row_length, 1)
        print(
            f"{name}: {split.documents:,} {_items(manifest)}, {split.tokens:,} tokens in {split.records:,} rows of "
            f"{manifest.row_length} ({filled:.1%} filled)"
        )
    print(f"pages are in {output}")


def _items(manifest: Manifest) -> str:
    if manifest.kind == "stream":
        return "documents"
    turns = [source.get("turns", 0) > 0 for source in manifest.sources if source.get("kept")]
    return "conversations" if all(turns) else "documents and conversations"


def _cells(source: dict[str, Any]) -> list[str]:
    dropped = sum(count for name, count in source.items() if name.startswith("dropped: "))
    numbers = [source.get(name, 0) for name in ("files", "read", "kept")] + [dropped, source.get("tokens", 0)]
    ratio = source.get("text_bytes", 0) / source["tokens"] if source.get("tokens") else 0.0
    return [*(f"{number:,}" for number in numbers), f"{ratio:.2f}"]


def warnings(manifest: Manifest, hosts: int) -> Iterator[str]:
    """What the build's user should know before training on it."""
    for name, split in manifest.splits.items():
        if not split.documents:
            yield f"no item fell into the split {name}; raise its fraction or bring more data"
    train = manifest.splits["train"]
    filled = sum(shard.records > 0 for shard in train.shards)
    if len(train.shards) < hosts:
        yield f"--shards is {len(train.shards)} for --hosts {hosts}; build with --shards {hosts} or more"
    elif train.records and filled < hosts:
        yield f"only {filled} of {len(train.shards)} shards of train hold rows, for --hosts {hosts}; bring more data"
    for source in manifest.sources:
        for name, count in source.items():
            if name.startswith("dropped: damaged"):
                yield f"{source['source']}: {count:,} {name.removeprefix('dropped: ')}, see the manifest's examples"
