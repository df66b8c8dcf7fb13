"""Verification finds every flipped byte, wrong value and wrong count, and says where."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from small_pages import LENGTH, make_pages

from jaxgpt.data.manifest import FILE, Manifest
from jaxgpt.data.records import ShardWriter
from jaxgpt.data.verify import Damaged, verify
from jaxgpt.errors import UserError

KINDS = ["stream", "dialogue"]
FIRST, SECOND = "pages-train.tfrecord-00000-of-00002", "pages-train.tfrecord-00001-of-00002"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folder, make_pages(folder, kind)) for kind, folder in folders.items()}


@pytest.fixture
def pages(whole, tmp_path):
    """kind -> (a copy that a test may damage, its manifest)"""

    def copy(kind):
        folder, manifest = whole[kind]
        return shutil.copytree(folder, tmp_path / "pages", dirs_exist_ok=True), manifest

    return copy


def damage(folder, *parts, shard=None):
    with pytest.raises(Damaged) as error:
        verify(folder, shard)
    for part in (str(folder), *parts):
        assert part in str(error.value)


def rewrite(folder, manifest: Manifest, file: str, change) -> Manifest:
    """Writes the shard again with changed columns, framing, CRCs and the manifest all fitting."""
    split = manifest.splits["train"]
    at = next(index for index, info in enumerate(split.shards) if info.file == file)
    rows = manifest.open_shards(folder, "train")[at].read(np.arange(split.shards[at].records))
    columns = {name: rows[name].copy() for name in manifest.page_format.columns}
    change(columns)
    writer = ShardWriter(folder / file, manifest.page_format)
    writer.write(columns)
    writer.close()
    infos = list(split.shards)
    infos[at] = dataclasses.replace(infos[at], crc32c=writer.crc32c)
    return replace_split(folder, manifest, shards=tuple(infos))


def replace_split(folder, manifest, **changes):
    split = dataclasses.replace(manifest.splits["train"], **changes)
    changed = dataclasses.replace(manifest, splits={**manifest.splits, "train": split})
    (folder / FILE).write_text(changed.to_json())
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_whole_pages(whole, kind):
    folder, manifest = whole[kind]
    verified = verify(folder)
    assert (
        verified.rows == sum(split.records for split in manifest.splits.values()) == {"stream": 4, "dialogue": 4}[kind]
    )
    assert verified.bytes == sum(path.stat().st_size for path in folder.glob("*.tfrecord*"))
    one = verify(folder, SECOND)
    assert (one.rows, one.bytes) == (1, (folder / SECOND).stat().st_size)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_in_every_part_of_a_record(pages, kind):
    folder, manifest = pages(kind)
    content = (folder / FIRST).read_bytes()
    record_bytes = manifest.page_format.dtype.itemsize
    fields = manifest.page_format.dtype.fields
    assert {"length", "length_crc", "example", "head_tokens", "tokens", "crc"} <= fields.keys()
    for name, (_, offset) in fields.items():
        damaged = bytearray(content)
        damaged[record_bytes + offset] ^= 4
        (folder / FIRST).write_bytes(damaged)
        damage(folder, FIRST, "record 1 is damaged", "frame" if name.startswith("length") else "CRC", "computed")
        damage(folder, FIRST, "record 1 ", shard=FIRST)
        assert verify(folder, SECOND).rows == 1


def test_sizes(pages):
    folder, _ = pages("stream")
    content = (folder / FIRST).read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], content + b"x", b""):
        (folder / FIRST).write_bytes(damaged)
        damage(folder, FIRST, f"has {len(damaged)} bytes", f"({len(content)})")
    (folder / FIRST).unlink()
    damage(folder, FIRST, "is missing")


def test_swapped_shards_and_a_valid_shard_of_another_build(pages):
    folder, manifest = pages("dialogue")
    valid = "pages-valid.tfrecord-00000-of-00001"
    contents = {name: (folder / name).read_bytes() for name in (SECOND, valid)}
    assert len(contents[SECOND]) == len(contents[valid])
    (folder / SECOND).write_bytes(contents[valid])
    (folder / valid).write_bytes(contents[SECOND])
    damage(folder, SECOND, f"manifest.json says {manifest.splits['train'].shards[1].tokens}")
    infos = list(manifest.splits["train"].shards)
    infos[1] = dataclasses.replace(infos[1], tokens=manifest.splits["valid"].tokens)
    replace_split(folder, manifest, shards=tuple(infos))
    crcs = [manifest.splits[split].shards[-1].crc32c for split in ("train", "valid")]
    damage(folder, SECOND, f"CRC-32C of the file is {crcs[1]}", f"says {crcs[0]}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("what", ["tokens", "bytes", "records"])
def test_counts_of_a_shard(pages, kind, by, what):
    folder, manifest = pages(kind)
    infos = list(manifest.splits["train"].shards)
    infos[0] = dataclasses.replace(infos[0], **{what: getattr(infos[0], what) + by})
    replace_split(folder, manifest, shards=tuple(infos))
    if what == "tokens" and by == 1 and kind == "stream":
        damage(folder, FILE, "split train says", "tokens, its shards hold")  # the filling cannot be told from an end
    else:
        damage(folder, FIRST, str(getattr(infos[0], what) if what != "records" else "bytes"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("what", ["tokens", "targets"])
def test_counts_of_a_split(pages, kind, by, what):
    folder, manifest = pages(kind)
    right = getattr(manifest.splits["train"], what)
    replace_split(folder, manifest, **{what: right + by})
    damage(folder, FILE, f"split train says {right + by} {what}, its shards hold {right}")


@pytest.mark.parametrize(("kind", "parts"), [("stream", "3 ends of documents"), ("dialogue", "4 segments")])
def test_more_documents_than_there_are(pages, kind, parts):
    folder, manifest = pages(kind)
    replace_split(folder, manifest, documents=5)
    damage(folder, FILE, "split train says 5 documents", f"hold {parts}")


def test_the_tokenizer(pages):
    folder, manifest = pages("stream")
    path = folder / "tokenizer" / "tokenizer.json"
    for field, value, what in (
        ("tokenizer_hash", "0" * 64, f"hash is {manifest.tokenizer_hash}"),
        ("eos_token_id", 3, "id of end-of-text is 256"),
    ):
        (folder / FILE).write_text(dataclasses.replace(manifest, **{field: value}).to_json())
        damage(folder, "tokenizer", what, f"says {value}")
    (folder / FILE).write_text(manifest.to_json())
    content = json.loads(path.read_text())
    content["model"]["vocab"]["extra"] = 257
    path.write_text(json.dumps(content))
    damage(folder, "tokenizer", "hash is")
    path.unlink()
    damage(folder, "tokenizer has no tokenizer.json")
    path.parent.rmdir()
    damage(folder, "tokenizer is missing")


def test_an_id_outside_the_vocabulary(pages):
    folder, manifest = pages("stream")
    wider = dataclasses.replace(manifest, vocab_size=263)

    def change(columns):
        columns["tokens"][1, 5] = 257

    changed = rewrite(folder, wider, FIRST, change)
    (folder / FILE).write_text(dataclasses.replace(changed, vocab_size=257).to_json())
    damage(folder, FIRST, "record 1 holds token id 257")


@pytest.mark.parametrize(
    ("row", "at", "token", "parts"),
    [
        (0, 0, 7, ("record 0 begins with token 7",)),
        (1, LENGTH - 1, 7, ("record 1 has token 7 at 30",)),
    ],
)
def test_streams_that_no_build_writes(pages, row, at, token, parts):
    folder, manifest = pages("stream")

    def change(columns):
        columns["tokens"][row, at] = token

    rewrite(folder, manifest, FIRST, change)
    damage(folder, FIRST, *parts)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("column", "row", "at", "value", "part"),
    [
        ("segments", 0, 0, 0, "record 0 has segment 0 at 0"),
        ("segments", 1, 0, 2, "record 1 has segment 2 at 0"),
        ("segments", 0, 2, 2, "record 0 has segment 1 after 3 tokens"),  # 1 1 2 1 …
        ("segments", 0, 8, 3, "record 0 has segment 3 after 8 tokens"),
        ("segments", 0, 3, 0, "record 0 has segment 1 after 4 tokens"),  # after padding
        ("roles", 1, 4, 2, "record 1 has role 2 at 4"),
        ("weights", 0, 1, NAN, "record 0 has weight nan at 1"),
        ("weights", 0, 1, INFINITY, "record 0 has weight inf at 1"),
        ("weights", 1, 2, -0.5, "record 1 has weight -0.5 at 2"),
        ("weights", 0, 0, 1.0, "record 0 has weight 1.0 at 0"),
        ("weights", 0, 16, 1.0, "record 0 has weight 1.0 at 16"),  # where the second conversation begins
        ("weights", 1, 20, 0.5, "record 1 has weight 0.5 at 20"),  # padding
    ],
)
def test_dialogue_that_no_build_writes(pages, column, row, at, value, part):
    folder, manifest = pages("dialogue")
    segments = manifest.open_shards(folder, "train")[0].read(np.arange(2))["segments"]
    assert segments.tolist() == [[1] * 16 + [2] * 8 + [0] * 7, [1] * 16 + [0] * 15]

    def change(columns):
        columns[column][row, at] = value

    rewrite(folder, manifest, FIRST, change)
    damage(folder, FIRST, part)


def test_blocks_smaller_than_a_shard(pages, monkeypatch):
    """The same faults at the edges of blocks."""
    from jaxgpt.data import verify as module

    monkeypatch.setattr(module, "_BLOCK_BYTES", 1)
    for kind in KINDS:
        folder, manifest = pages(kind)
        assert verify(folder).rows == 4

    def change(columns):
        columns["segments"][1, 0] = 2

    rewrite(folder, manifest, FIRST, change)
    damage(folder, FIRST, "record 1 has segment 2 at 0")


def test_no_pages_at_all(tmp_path, whole):
    with pytest.raises(UserError, match=r"manifest.json is missing") as error:
        verify(tmp_path)
    assert not isinstance(error.value, Damaged)
    with pytest.raises(UserError, match="names no shard other"):
        verify(whole["stream"][0], "other")
