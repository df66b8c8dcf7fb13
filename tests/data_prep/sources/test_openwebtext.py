"""OpenWebText's nested archive, whole and broken; tar archives against the standard library's reader."""

import io
import lzma
import tarfile

import pytest
from archives import tar_of, write_archive
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from data_prep.sources import openwebtext
from data_prep.sources.chunk import Dropped
from data_prep.sources.files import find_files
from data_prep.sources.openwebtext import OpenWebText
from data_prep.sources.tar import BrokenTarError, members

LIMIT = 1 << 20


def archive(path, subsets):
    """The source of such an archive."""
    write_archive(path, subsets)
    return OpenWebText(f"openwebtext:{path}", find_files("", str(path)))


def items_of(source):
    return [
        item
        for chunk in source.chunks(0, 64)
        for item in ([chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk))
    ]


SUBSETS = {
    f"openwebtext/urlsf_subset00-{number}_data.xz": {
        f"{number}-{at}.txt": f"document {number} {at} naïve".encode() * (at + 1) for at in range(5)
    }
    for number in range(4)
}


def test_documents_in_order(tmp_path):
    source = archive(tmp_path / "openwebtext.tar.xz", SUBSETS)
    assert items_of(source) == [data.decode() for files in SUBSETS.values() for data in files.values()]
    positions = [chunk.position for chunk in source.chunks(0, 64)]
    assert positions == sorted(positions)
    assert positions[-1] < source.size


def test_a_plain_tar_of_texts_and_names_that_would_escape(tmp_path):
    files = {"../../escape.txt": b"one", "/etc/absolute.txt": b"two", "notes.md": b"no document"}
    path = tmp_path / "sub" / "part.tar"
    path.parent.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo(f"link{kind!r}.txt")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    inner = lzma.compress(buffer.getvalue()[:2048] + tar_of(files))
    path.write_bytes(tar_of({"subset_data.xz": inner, "single.txt": b"three"}))
    source = OpenWebText("", find_files("", str(path)))
    one, two, dropped, three = items_of(source)
    assert (one, two, three) == ("one", "two", "three")
    assert dropped.reason == "no .txt file"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["part.tar", "sub"]


@pytest.mark.parametrize("damage", ["inner cut", "inner flipped", "inner header", "outer cut", "not UTF-8"])
def test_a_broken_member_costs_no_other(tmp_path, damage):
    path = tmp_path / "a.tar.xz"
    names = list(SUBSETS)
    inner = {name: lzma.compress(tar_of(files)) for name, files in SUBSETS.items()}
    second = inner[names[1]]
    if damage == "inner cut":
        inner[names[1]] = second[:-40]
    elif damage == "inner flipped":
        inner[names[1]] = second[:60] + bytes([second[60] ^ 255]) + second[61:]
    elif damage == "inner header":
        raw = bytearray(tar_of(SUBSETS[names[1]]))
        raw[1024] ^= 255  # within the name of the second document
        inner[names[1]] = lzma.compress(bytes(raw))
    elif damage == "not UTF-8":
        inner[names[1]] = lzma.compress(tar_of({"a.txt": b"\xff", "b.txt": b"fine"}))
    outer = tar_of(inner)
    packed = lzma.compress(outer)
    path.write_bytes(packed[: len(packed) // 2] if damage == "outer cut" else packed)
    items = items_of(OpenWebText("", find_files("", str(path))))
    texts = [item for item in items if isinstance(item, str)]
    (dropped,) = [item for item in items if isinstance(item, Dropped)]
    documents = {name: [data.decode() for data in files.values()] for name, files in SUBSETS.items()}
    if damage == "outer cut":
        assert dropped.damaged
        assert 0 < len(texts) < 20
        assert texts == [text for name in names for text in documents[name]][: len(texts)]
        return
    for name in (names[0], names[2], names[3]):
        assert [text for text in texts if text in documents[name]] == documents[name]
    assert names[1] in dropped.example
    assert dropped.damaged == (damage != "not UTF-8")
    if damage == "inner header":
        assert documents[names[1]][0] in texts


def test_an_inner_archive_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(openwebtext, "MAX_BYTES", 3000)
    files = {f"{number}.txt": b"x" * 1000 for number in range(9)}
    items = items_of(archive(tmp_path / "a.tar.xz", {"bomb_data.xz": files, "next_data.xz": {"a.txt": b"fine"}}))
    assert items[:3] == ["x" * 1000] * 3
    assert "rest of an inner archive" in items[3].reason
    assert items[4:] == ["fine"]


name = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(name, st.binary(max_size=1500), max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_sees(files, format):
    try:
        raw = tar_of(files, format)
    except ValueError:  # the name does not fit into ustar
        reject()
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]
    assert list(members(io.BytesIO(raw), LIMIT)) == expected


def test_members_over_the_limit_are_passed_over():
    raw = tar_of({"a": b"x" * 1000, "b": b"y" * 100})
    assert list(members(io.BytesIO(raw), 500)) == [("a", None), ("b", b"y" * 100)]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1500])
def test_an_archive_that_ends_early(cut):
    raw = tar_of({"a": b"x" * 400, "b": b"y" * 100})
    found = []
    with pytest.raises(BrokenTarError):
        found.extend(members(io.BytesIO(raw[:cut]), LIMIT))
    assert found == [("a", b"x" * 400)][: cut // 1024]
