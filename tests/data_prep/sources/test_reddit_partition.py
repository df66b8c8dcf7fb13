"""The partition of Reddit's dumps by submission: its chunks from any place, and passes that are killed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_dumps import all_of, comment, source_of

from data_prep.sources import reddit
from data_prep.sources.chunk import Dropped
from data_prep.sources.reddit import Reddit
from data_prep.sources.reddit_filters import RedditFilters
from jaxgpt.errors import UserError


def many(submissions: int = 60) -> list[dict[str, Any]]:
    values = []
    for number in range(submissions):
        link = f"t3_{number}"
        values += [comment(f"{number}a", link, link=link), comment(f"{number}x", link, "(no)", link)]
        values += [comment(f"{number}b", f"t1_{number}a", link=link)]
    return values


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many buckets of small inputs, some of several parts, and buffers that are written often."""
    for name, size in {"_WANTED_BYTES": 100, "_PART_BYTES": 150, "_BUFFER_BYTES": 500, "_READ_BYTES": 700}.items():
        monkeypatch.setattr(reddit, name, size)


@pytest.mark.usefixtures("small")
def test_chunks_are_the_same_from_anywhere_and_give_everything_once(tmp_path: Path) -> None:
    source = source_of(tmp_path, many())
    chunks = list(source.chunks(0, 1 << 20))
    positions = [chunk.position for chunk in chunks]
    assert len(chunks) > 10
    assert any(chunk.data.parts > 1 for chunk in chunks if not isinstance(chunk.data, Dropped))
    assert positions == sorted(set(positions))
    assert positions[0] >= 0
    assert positions[-1] < source.size
    for begin in {0, 1, *positions, positions[-1] + 1, source.size}:
        assert list(source.chunks(begin, 999)) == [chunk for chunk in chunks if chunk.position >= begin]
    paths, counts = all_of(source)
    assert sorted(paths) == sorted([f"text {number}a", f"text {number}b"] for number in range(60))
    assert counts == {"comment of under 2 words": 60}
    # Another folder, the same chunks.
    other = replace(source, scratch=str(tmp_path / "other"))
    assert all_of(other) == (paths, counts)
    assert [chunk.position for chunk in other.chunks(0, 1)] == positions


@pytest.mark.usefixtures("small")
def test_a_killed_partition_is_made_again_and_a_finished_one_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, many())
    expected = all_of(replace(source, scratch=str(tmp_path / "other")))
    append, calls = Reddit._append, 0

    def killed(self: Reddit, buffers: list[bytearray]) -> None:
        nonlocal calls
        append(self, buffers)
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reddit, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            next(source.chunks(0, 1))
    left = sorted(path.name for path in (tmp_path / "scratch").iterdir())
    assert left
    assert "partition.json" not in left
    assert all_of(source) == expected

    def never(*_: Any) -> None:
        raise AssertionError("the input was read again")

    with monkeypatch.context() as patch:
        patch.setattr(reddit, "line_chunks", never)
        assert all_of(source) == expected
        # Other filters, or a bucket that somebody removed, need another pass.
        with pytest.raises(AssertionError, match="read again"):
            all_of(replace(source, filters=RedditFilters(min_words=1)))
    assert all_of(source) == expected
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"")):
        spoil(max((tmp_path / "scratch").glob("bucket-*"), key=lambda path: path.stat().st_size))
        assert all_of(source) == expected
    # A partition that replaces a finished one and is killed leaves nothing that looks finished.
    with monkeypatch.context() as patch:
        patch.setattr(Reddit, "_append", killed)
        calls = 2
        with pytest.raises(KeyboardInterrupt):
            next(replace(source, filters=RedditFilters(min_words=1)).chunks(0, 1))
    assert not (tmp_path / "scratch" / "partition.json").exists()
    assert all_of(source) == expected
    # Changed input.
    changed = source_of(tmp_path, many(3))
    assert all_of(changed)[1] == {"comment of under 2 words": 3}


def test_the_folder_cannot_be_written(tmp_path: Path) -> None:
    source = source_of(tmp_path, many(1))
    (tmp_path / "scratch" / "bucket-000.jsonl" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=r"bucket-000\.jsonl cannot be written"):
        all_of(source)
