"""Chunks of lines against the bytes they were cut from: from any place, of any compression, damaged and over-long."""

import bz2
import gzip
import lzma
import random
import zlib
from functools import partial

import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.sources import lines
from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.files import find_files
from data_prep.sources.lines import line_chunks, text_of, where
from jaxgpt.errors import UserError

PACK = {
    ".gz": gzip.compress,
    ".xz": partial(lzma.compress, preset=0),
    ".bz2": partial(bz2.compress, compresslevel=1),  # its blocks then have 100 kB: one that is cut off gives nothing
    ".zst": zstd.compress,
}
UNPACKER = {
    ".gz": partial(zlib.decompressobj, 31),
    ".xz": lzma.LZMADecompressor,
    ".bz2": bz2.BZ2Decompressor,
    ".zst": zstd.ZstdDecompressor,
}


def random_lines(n_bytes):
    """Lines that hardly compress, of 1 to 200 bytes."""
    rng = random.Random(0)
    made = [rng.randbytes(rng.randrange(100)).hex().encode() + b"\n" for _ in range(n_bytes // 100)]
    return b"".join(made)


def chunks_of(folder, contents, chunk_bytes, ending=b"\n", suffix=".txt"):
    """(files, their chunks from the start) of files with these contents."""
    for number, content in enumerate(contents):
        (folder / f"{number}{suffix}").write_bytes(content)
    files = find_files("text:x", f"{folder}/*{suffix}")
    return files, list(line_chunks(files, 0, chunk_bytes, ending))


def assert_same_from_everywhere(files, whole, chunk_bytes, ending=b"\n"):
    positions = [chunk.position for chunk in whole]
    assert positions == sorted(positions)
    assert positions[0] >= 0
    assert positions[-1] < sum(file.bytes for file in files)
    for begin in range(sum(file.bytes for file in files)):
        later = [chunk for chunk in line_chunks(files, begin, chunk_bytes, ending) if chunk.position >= begin]
        assert later == [chunk for chunk in whole if chunk.position >= begin], begin


contents = st.lists(st.sampled_from([b"a", b"\n", b"\n\n\n", b"bcdefghi"]), min_size=1, max_size=20).map(b"".join)


@settings(max_examples=100, deadline=None, database=None)
@given(first=contents, second=contents, chunk_bytes=st.integers(2, 9), ending=st.sampled_from([b"\n", b"\n\n\n"]))
@example(first=b"a\nb\nc\nd\ne", second=b"a", chunk_bytes=4, ending=b"\n")
@example(first=b"a\n\n\n\nbcdefghi\n\n\n", second=b"\n", chunk_bytes=4, ending=b"\n\n\n")
def test_any_begin_gives_the_same_chunks(tmp_path_factory, first, second, chunk_bytes, ending):
    files, whole = chunks_of(tmp_path_factory.mktemp("any"), [first, second], chunk_bytes, ending)
    for file, content in zip(files, (first, second), strict=True):
        own = [chunk for chunk in whole if chunk.file == file.path]
        assert b"".join(chunk.data for chunk in own) == content
        assert all(content[: chunk.offset + len(chunk.data)].endswith(ending) for chunk in own[:-1])
        assert all(content[chunk.offset :].startswith(chunk.data) for chunk in own)
    assert_same_from_everywhere(files, whole, chunk_bytes, ending)


@pytest.mark.parametrize("suffix", PACK)
def test_packed_files_give_all_their_lines(tmp_path, suffix):
    content = random_lines(300_000)
    files, whole = chunks_of(tmp_path, [PACK[suffix](content), PACK[suffix](b"x\ny")], 10_000, suffix=suffix)
    assert b"".join(chunk.data for chunk in whole) == content + b"x\ny"
    positions = [chunk.position for chunk in whole]
    assert positions == sorted(positions)
    assert positions[-1] < sum(file.bytes for file in files)
    assert [chunk.position >= files[0].bytes for chunk in whole] == [chunk.file == files[1].path for chunk in whole]
    for begin in positions:
        later = [chunk for chunk in line_chunks(files, begin, 10_000) if chunk.position >= begin]
        assert later == [chunk for chunk in whole if chunk.position >= begin]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_file_gives_the_whole_lines_before_the_damage(tmp_path, suffix, share):
    packed = PACK[suffix](random_lines(600_000))
    packed = packed[: int(len(packed) * share)]
    readable = UNPACKER[suffix]().decompress(packed)
    assert readable, "the test needs some lines before the damage"
    files, whole = chunks_of(tmp_path, [packed], 50_000, suffix=suffix)
    assert b"".join(chunk.data for chunk in whole[:-1]) == readable[: readable.rfind(b"\n") + 1]
    assert isinstance(whole[-1].data, Dropped)
    assert whole[-1].data.damaged
    assert files[0].path in whole[-1].data.example
    positions = [chunk.position for chunk in whole]
    assert positions == sorted(positions)
    assert positions[-1] < sum(file.bytes for file in files)


@pytest.mark.parametrize("ending", [b"\n", b"\n\n\n"])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("chunk_bytes", [5, 16, 40])
def test_an_over_long_line_is_dropped_once(tmp_path, monkeypatch, ending, closed, chunk_bytes):
    monkeypatch.setattr(lines, "MAX_BYTES", 40)
    kept = [b"one", b"two", b"three"]
    parts = [kept[0], b"x" * 200, kept[1], b"y" * 150, kept[2], *([] if closed else [b"z" * 170])]
    content = ending.join(parts) + (ending if closed else b"")
    files, whole = chunks_of(tmp_path, [content], chunk_bytes, ending)
    dropped = [chunk.data for chunk in whole if isinstance(chunk.data, Dropped)]
    assert len(dropped) == (2 if closed else 3)
    assert {drop.reason for drop in dropped} == {"line of over 0 MiB"}
    rest = b"".join(chunk.data for chunk in whole if isinstance(chunk.data, bytes))
    assert rest == b"".join(line + ending for line in kept)
    assert_same_from_everywhere(files, whole, chunk_bytes, ending)


def test_a_line_says_where_it_stands_also_in_a_later_chunk_of_a_packed_file(tmp_path):
    good = b"".join(b"line %d\n" % number for number in range(1, 1000))
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(good + b"caf\xe9\n" + good))
    chunks = list(line_chunks(find_files("text:x", str(path)), 0, 500))
    bad = next(chunk for chunk in chunks if b"\xe9" in chunk.data)
    assert bad.offset > 0
    with pytest.raises(UserError, match=rf"{path}:1000: byte 0xe9 is not UTF-8"):
        text_of(bad)
    assert where(chunks[-1], chunks[-1].data.count(b"\n") - 1) == f"{path}:1999"


def test_a_byte_order_mark_is_no_text():
    assert text_of(Chunk(0, "x", 0, b"\xef\xbb\xbfhello\n")) == "hello\n"
    assert list(lines.lines(Chunk(0, "x", 0, b"a\r\n \r\n\nb"))) == [(0, "a"), (3, "b")]
