"""Documents from text, JSON Lines, Parquet, TFDS and Hugging Face data sets, against what was put in."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from data_prep.sources import chunk as chunk_module
from data_prep.sources import text as text_module
from data_prep.sources.chunk import Dropped
from data_prep.sources.kinds import SourceOptions, open_sources
from data_prep.sources.reddit_filters import RedditFilters
from jaxgpt.errors import UserError

DOCUMENTS = ["First\n\ndocument", "naïve 🤖", " ", "four\tfive", "x" * 300, "6\r\n7", "eight", "nine words " * 40]
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress, ".bz2": bz2.compress}


def open_one(spec, **options):
    (source,) = open_sources(SourceOptions([spec], **options), Path("unused"))
    return source


def items_of(source, chunk_bytes=64, begin=0):
    return [
        item
        for chunk in source.chunks(begin, chunk_bytes)
        for item in ([chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk))
    ]


def assert_sound(source, chunk_bytes=64):
    """Positions ascend within the source's size; whatever `begin` is, the chunks from there on are the same."""
    whole = [(chunk.position, list(source.read(chunk))) for chunk in source.chunks(0, chunk_bytes)]
    positions = [position for position, _ in whole]
    assert positions == sorted(positions)
    assert positions[0] >= 0
    assert positions[-1] < source.size
    for begin in positions[:: max(len(positions) // 7, 1)]:
        later = [(chunk.position, list(source.read(chunk))) for chunk in source.chunks(begin, chunk_bytes)]
        assert [entry for entry in later if entry[0] >= begin] == [entry for entry in whole if entry[0] >= begin]


@pytest.mark.parametrize("packed", PACKERS)
def test_jsonl(tmp_path, packed):
    lines = "".join(json.dumps({"meta": {"text": text}, "text": 3}) + "\n" for text in DOCUMENTS * 5)
    (tmp_path / f"a.jsonl{packed}").write_bytes(PACKERS[packed](lines.encode()))
    source = open_one(f"jsonl:{tmp_path}/*", text_field="meta.text")
    assert items_of(source) == DOCUMENTS * 5
    assert_sound(source)


@pytest.mark.parametrize("packed", PACKERS)
def test_text_with_a_separator(tmp_path, packed):
    content = "\n--\n".join(DOCUMENTS)
    for name, ending in (("a", "\n--\n"), ("b", "")):
        (tmp_path / f"{name}.txt{packed}").write_bytes(PACKERS[packed]((content + ending).encode()))
    source = open_one(f"text:{tmp_path}/*", separator="--")
    assert items_of(source) == DOCUMENTS * 2
    assert_sound(source)


@pytest.mark.parametrize("packed", PACKERS)
def test_text_files(tmp_path, packed):
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt{packed}").write_bytes(PACKERS[packed](b"\xef\xbb\xbf" + text.encode()))
    source = open_one(f"text:{tmp_path}/*")
    assert items_of(source) == DOCUMENTS
    assert len(list(source.chunks(0, 64))) > 1
    assert_sound(source)


def test_adjacent_separators_hold_an_empty_document(tmp_path):
    (tmp_path / "a.txt").write_text("a\n--\n--\nb\n--\n")
    source = open_one(f"text:{tmp_path}/a.txt", separator="--")
    for chunk_bytes in range(1, 16):
        assert items_of(source, chunk_bytes) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("packed", "damage"),
    # What is flipped within .gz and .zst comes out as other text, which its line then tells.
    [(".gz", "cut"), (".xz", "cut"), (".zst", "cut"), (".bz2", "cut"), (".xz", "flipped"), (".bz2", "flipped")],
)
def test_damage_costs_no_more_than_what_is_damaged(tmp_path, packed, damage):
    """The documents before it are kept, and so are all of the next file."""
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(97, 123, 700))) for _ in range(400)]
    raw = PACKERS[packed]("".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    middle = len(raw) // 2
    broken = raw[:middle] if damage == "cut" else raw[:middle] + bytes(99) + raw[middle + 99 :]
    (tmp_path / f"a.jsonl{packed}").write_bytes(broken)
    (tmp_path / f"b.jsonl{packed}").write_bytes(raw)
    items = items_of(open_one(f"jsonl:{tmp_path}/*"), 1 << 12)
    (at,) = [number for number, item in enumerate(items) if isinstance(item, Dropped)]
    assert items[at].reason == "damaged file"
    assert items[at].damaged
    assert f"a.jsonl{packed}" in items[at].example
    assert items[:at] == texts[:at]
    assert items[at + 1 :] == texts
    if packed in (".gz", ".xz") and damage == "cut":
        assert at > 150  # of some 200 before the damage; the others decompress in blocks


def test_a_text_file_too_large_for_memory_is_left_out(tmp_path, monkeypatch):
    for module in (chunk_module, text_module):
        monkeypatch.setattr(module, "MAX_BYTES", 100)
    for name, size in (("a", 100), ("b", 101)):
        (tmp_path / f"{name}.txt").write_text("x" * size)
    kept, dropped = items_of(open_one(f"text:{tmp_path}/*"))
    assert kept == "x" * 100
    assert (dropped.example, dropped.damaged) == (f"{tmp_path}/b.txt", True)


def test_parquet(tmp_path):
    texts = [*DOCUMENTS, None] * 7
    table = pa.table({"id": range(len(texts)), "body": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=11)
    pq.write_table(table, tmp_path / "b.parquet")
    source = open_one(f"parquet:{tmp_path}/*.parquet", text_field="body")
    assert items_of(source, 500) == [text or "" for text in texts] * 2
    assert_sound(source, 500)


@pytest.mark.parametrize("as_parquet", [True, False])
def test_openwebtexts_copies(tmp_path, as_parquet):
    if as_parquet:
        pq.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "train-0.parquet")
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
        (tmp_path / "train.jsonl.zst").write_bytes(zstd.compress(lines.encode()))
    assert items_of(open_one(f"openwebtext:{tmp_path}/*")) == DOCUMENTS


def test_parquet_that_cannot_be_read(tmp_path):
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet has no column 'text'; name one of id, body with --text_field"):
        items_of(open_one(f"parquet:{tmp_path}/a.parquet"))
    with pytest.raises(UserError, match="has int64, not strings, in the column 'id'"):
        items_of(open_one(f"parquet:{tmp_path}/a.parquet", text_field="id"))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-9])
    with pytest.raises(UserError, match=r"b\.parquet is no whole Parquet file"):
        items_of(open_one(f"parquet:{tmp_path}/b.parquet"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "found an object with nothing where the field 'text' should hold the text"),
        ('{"body": "x"}', "found an object with body where the field 'text'"),
        ('["a"]', 'found ["a"] where the field'),
        ('{"text": 3}', "found an object with text where the field 'text'"),
        ("{text}", "not JSON"),
        ('{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": "\xff"}', "byte 0xff is not UTF-8"),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_bad_line_is_named(tmp_path, line, message, packed):
    raw = line if isinstance(line, bytes) else line.encode()
    lines = b'{"text": "fine"}\n' * 20 + b"\n" + raw + b"\n"
    (tmp_path / f"a.jsonl{packed}").write_bytes(PACKERS[packed](lines))
    with pytest.raises(UserError) as error:
        items_of(open_one(f"jsonl:{tmp_path}/*"))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl{packed}:22: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("book.txt", "write KIND:PATHS; the kinds are text, jsonl"),
        ("jsnl:a", "did you mean jsonl:a?"),
        ("text:/nowhere/*.txt", "no file matches /nowhere/*.txt"),
    ],
)
def test_a_source_that_is_none(spec, message):
    with pytest.raises(UserError) as error:
        open_one(spec)
    assert message in str(error.value)


def test_a_name_with_brackets_and_a_folder(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert items_of(open_one(f"text:{tmp_path}/a[1].txt")) == ["x"]
    with pytest.raises(UserError, match=r"it is a folder; write '.*/\*'"):
        open_one(f"text:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": "body"}, "--text_field is for the kinds jsonl, parquet"),
        ({"reverse": True}, "--reverse is for the kinds dialogpt"),
        ({"reddit": RedditFilters(min_score=3)}, "--reddit is for the kinds reddit"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(tmp_path, options, message):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError) as error:
        open_one(f"text:{tmp_path}/a.txt", **options)
    assert message in str(error.value)


def test_separators_of_windows(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\r\n--\r\nc\r\n--\r\nd")
    for chunk_bytes in (1, 7, 1000):
        assert items_of(open_one(f"text:{tmp_path}/a.txt", separator="--"), chunk_bytes) == ["a\r\nb", "c", "d"]


def test_parquet_without_rows_and_with_a_dictionary(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    words = pa.array(["x", "y", "x", None]).dictionary_encode()
    pq.write_table(pa.table({"text": words}), tmp_path / "b.parquet")
    assert items_of(open_one(f"parquet:{tmp_path}/*")) == ["x", "y", "x", ""]


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").touch()
    with pytest.raises(UserError, match=r"b\.txt is empty; leave it out"):
        open_one(f"text:{tmp_path}/*")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared TFDS data set: texts in train, lists of turns in talks."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            features = {"body": tfds.features.Text(), "talk": tfds.features.Sequence(tfds.features.Text())}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, text in enumerate(DOCUMENTS):
                yield number, {"body": text, "talk": [f"hello {number}", "hi"]}

    builder = Tiny(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder.data_dir


@pytest.mark.slow
def test_tfds(prepared):
    source = open_one(f"tfds:{prepared}", text_field="body")
    assert source.holds == "documents"
    assert sorted(items_of(source)) == sorted(DOCUMENTS)
    assert_sound(source)
    talks = open_one(f"tfds:{prepared}:train", text_field="talk")
    assert talks.holds == "dialogue"
    found = sorted(tuple((turn.text, turn.role) for turn in talk.turns) for talk in items_of(talks))
    assert found == sorted(((f"hello {number}", 0), ("hi", 1)) for number in range(len(DOCUMENTS)))
    with pytest.raises(UserError, match="no split 'dev'; it has train"):
        open_one(f"tfds:{prepared}:dev")
    with pytest.raises(UserError, match=r"the field 'text' holds neither text nor a list of turns.*body.*talk"):
        open_one(f"tfds:{prepared}")


@pytest.mark.slow
@pytest.mark.parametrize("files", [1, 3])
def test_hugging_face(tmp_path, files):
    for number in range(files):
        lines = "".join(json.dumps({"text": f"{number} {text}"}) + "\n" for text in DOCUMENTS)
        (tmp_path / f"{number}.jsonl").write_text(lines)
    source = open_one(f"hf:{tmp_path}")
    assert source.holds == "documents"
    assert items_of(source) == [f"{number} {text}" for number in range(files) for text in DOCUMENTS]
    assert_sound(source)
    first = tmp_path / "0.jsonl"
    first.write_text(first.read_text().replace("First", "Other"))
    assert open_one(f"hf:{tmp_path}").fingerprint() != source.fingerprint()
    with pytest.raises(UserError, match=r"--source hf:.*:dev: "):
        open_one(f"hf:{tmp_path}:dev")
