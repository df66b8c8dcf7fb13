"""Small dumps of Reddit, and what a source makes of them."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from backports import zstd

from data_prep.sources.chunk import Dropped
from data_prep.sources.files import find_files
from data_prep.sources.reddit import Reddit
from data_prep.sources.reddit_filters import RedditFilters


def comment(name: str, parent: str, body: str | None = None, link: str = "t3_s", **more: Any) -> dict[str, Any]:
    """Its text is `text NAME` unless another is given."""
    text = f"text {name}" if body is None else body
    made = {"id": name, "parent_id": parent, "link_id": link, "body": text, "score": 3, "author": "ann"}
    return made | {"subreddit": "AskReddit", "created_utc": 1420070400, "gilded": 0, "edited": False} | more


def replies(**parents: str) -> list[dict[str, Any]]:
    """Comments by name, each below this parent."""
    return [comment(name, parent) for name, parent in parents.items()]


def submission(name: str, title: str, **more: Any) -> dict[str, Any]:
    made = {"id": name, "title": title, "selftext": "", "score": 0, "author": "bob", "subreddit": "AskReddit"}
    return made | {"num_comments": 2, "url": "http://x.y", "created_utc": 1420070400} | more


def dump(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    """A file as Reddit's dumps are: ASCII, packed with Zstandard where its name says so."""
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    path.write_bytes(zstd.compress(content) if path.suffix == ".zst" else content)
    return path


def source_of(tmp_path: Path, values: Iterable[dict[str, Any]], **filters: Any) -> Reddit:
    path = dump(tmp_path / "RC_2015-01", values)
    return Reddit("reddit:x", find_files("reddit:x", str(path)), str(tmp_path / "scratch"), RedditFilters(**filters))


def all_of(source: Reddit) -> tuple[list[list[str]], dict[str, int]]:
    """(texts of each conversation, counts by reason)"""
    paths: list[list[str]] = []
    counts: Counter[str] = Counter()
    for chunk in source.chunks(0, 1 << 20):
        for item in [chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk):
            if isinstance(item, Dropped):
                counts[item.reason] += item.count
            else:
                assert [turn.role for turn in item.turns] == [index % 2 for index in range(len(item.turns))]
                paths.append([turn.text for turn in item.turns])
    return paths, dict(counts)
