"""Shards against TensorFlow: we write what it would write and read what was written; damage is found."""

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from jaxgpt.data.records import PageFormat, Shard, ShardWriter
from jaxgpt.errors import UserError

UINT16_VOCAB, UINT32_VOCAB = 65_521, 65_539  # the primes on both sides of 2**16


def random_rows(page_format, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n_rows, page_format.row_length)
    rows = {"tokens": rng.integers(0, page_format.vocab_size, shape)}
    if page_format.kind == "dialogue":
        rows["weights"] = rng.random(shape, np.float32)
        rows["segments"] = rng.integers(0, 1 << 16, shape)
        rows["roles"] = rng.integers(0, 2, shape)
    return rows


def write(path, page_format, *parts):
    writer = ShardWriter(path, page_format)
    for rows in parts:
        writer.write(rows)
    writer.close()
    return writer


def tensorflow_file(path, page_format, rows):
    """The same rows by tf.train.Example and tf.io.TFRecordWriter."""
    tokens_type = np.uint16 if page_format.vocab_size <= 65_536 else np.uint32
    types = {"tokens": tokens_type, "weights": np.float32, "segments": np.uint16, "roles": np.uint8}
    with tf.io.TFRecordWriter(str(path)) as file:
        for row in range(len(rows["tokens"])):
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[column[row].astype(types[name]).tobytes()]))
                for name, column in rows.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            file.write(example.SerializeToString(deterministic=True))


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
@pytest.mark.parametrize("vocab_size", [257, UINT16_VOCAB, 65_536, 65_537, UINT32_VOCAB])
@pytest.mark.parametrize("row_length", [8, 11, 13, 31, 61, 64, 127, 128, 1021, 1024, 8191, 9000])
def test_bytes_are_tensorflows(tmp_path, kind, vocab_size, row_length):
    page_format = PageFormat(kind, row_length, vocab_size)
    rows = random_rows(page_format, 3)
    rows["tokens"][0, 0], rows["tokens"][2, -1] = 0, vocab_size - 1
    write(tmp_path / "ours", page_format, rows)
    tensorflow_file(tmp_path / "theirs", page_format, rows)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_more_rows_than_one_write_holds_and_several_writes(tmp_path):
    page_format = PageFormat("dialogue", 11, UINT16_VOCAB)
    rows = random_rows(page_format, 2 * 1024 + 17)
    parts = [{name: column[a:b] for name, column in rows.items()} for a, b in ((0, 7), (7, 7), (7, 2065))]
    writer = write(tmp_path / "ours", page_format, *parts)
    tensorflow_file(tmp_path / "theirs", page_format, rows)
    content = (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").read_bytes() == content
    assert (writer.records, writer.n_bytes) == (2065, len(content))
    assert int(writer.crc32c, 16) == google_crc32c.value(content)
    assert len(writer.crc32c) == 8


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
@pytest.mark.parametrize("vocab_size", [UINT16_VOCAB, UINT32_VOCAB])
def test_tf_data_reads_the_values_back(tmp_path, kind, vocab_size):
    page_format = PageFormat(kind, 61, vocab_size)
    rows = random_rows(page_format, 5)
    write(tmp_path / "shard", page_format, rows)
    tokens_type = tf.uint16 if vocab_size == UINT16_VOCAB else tf.int32  # decode_raw knows no uint32
    types = {"tokens": tokens_type, "weights": tf.float32, "segments": tf.uint16, "roles": tf.uint8}
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in rows}
    n_read = 0
    for number, serialized in enumerate(tf.data.TFRecordDataset(str(tmp_path / "shard"))):
        parsed = tf.io.parse_single_example(serialized, spec)
        for name, column in rows.items():
            values = tf.io.decode_raw(parsed[name], types[name]).numpy()
            np.testing.assert_array_equal(values, column[number])
        n_read += 1
    assert n_read == 5


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
def test_shard_reads_rows_in_any_order(tmp_path, kind):
    page_format = PageFormat(kind, 13, UINT32_VOCAB)
    rows = random_rows(page_format, 7)
    write(tmp_path / "shard", page_format, rows)
    shard = Shard(tmp_path / "shard", page_format, 7)
    assert len(shard) == 7
    order = np.array([6, 0, 3, 3])
    read = shard.read(order)
    for name, column in rows.items():
        np.testing.assert_array_equal(read[name], column[order])


def test_empty_shard(tmp_path):
    page_format = PageFormat("dialogue", 13, 257)
    writer = write(tmp_path / "shard", page_format)
    assert (writer.records, writer.n_bytes, writer.crc32c) == (0, 0, "00000000")
    shard = Shard(tmp_path / "shard", page_format, 0)
    assert len(shard) == 0
    assert len(shard.read(np.arange(0))) == 0


@pytest.mark.parametrize("kind", ["stream", "dialogue"])
def test_a_flipped_bit_anywhere_is_found(tmp_path, kind):
    """Every byte of a record: length, its CRC, the Example's heads, the columns, the data's CRC."""
    page_format = PageFormat(kind, 11, 257)
    path = tmp_path / "shard"
    write(path, page_format, random_rows(page_format, 3))
    whole = path.read_bytes()
    record_bytes = len(whole) // 3
    for at in range(record_bytes, 2 * record_bytes):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        shard = Shard(path, page_format, 3)
        assert len(shard.read(np.array([0, 2]))) == 2
        with pytest.raises(UserError, match=r"record 1 is damaged") as error:
            shard.read(np.array([2, 1]))
        assert str(path) in str(error.value)


def test_truncated_longer_or_missing_file(tmp_path):
    page_format = PageFormat("stream", 11, 257)
    path = tmp_path / "shard"
    write(path, page_format, random_rows(page_format, 3))
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 3 * 2], whole + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            Shard(path, page_format, 3)
        for part in (str(path), f"has {len(content)} bytes", "promises 3 records"):
            assert part in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match="is missing") as error:
        Shard(path, page_format, 3)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("bad", [257, 65_536, -1])
def test_ids_outside_the_vocabulary_are_not_written(tmp_path, bad):
    page_format = PageFormat("stream", 8, 257)
    rows = random_rows(page_format, 3)
    rows["tokens"][1, 5] = bad
    with pytest.raises(UserError, match=f"token id {bad} is outside the vocabulary of 257"):
        write(tmp_path / "shard", page_format, rows)
    assert (tmp_path / "shard").read_bytes() == b""


def test_ids_outside_the_vocabulary_are_found(tmp_path):
    written, read = PageFormat("stream", 8, 263), PageFormat("stream", 8, 257)
    rows = {"tokens": np.zeros((1031, 8), np.int64)}
    rows["tokens"][1029, 7] = 257
    write(tmp_path / "shard", written, rows)
    shard = Shard(tmp_path / "shard", read, 1031)
    with pytest.raises(UserError, match="token id 257, outside the vocabulary of 257") as error:
        shard.read(np.arange(1031))
    assert str(tmp_path / "shard") in str(error.value)
    assert "record 1029 " in str(error.value)
    assert len(Shard(tmp_path / "shard", written, 1031).read(np.arange(1031))) == 1031


def test_rows_of_another_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rows of 11 tokens do not fit pages of 13"):
        write(tmp_path / "shard", PageFormat("stream", 13, 257), {"tokens": np.zeros((2, 11), np.int64)})


def test_read_span_is_a_slice_of_the_stream(tmp_path):
    page_format = PageFormat("stream", 11, UINT32_VOCAB)
    rows = random_rows(page_format, 3)
    write(tmp_path / "shard", page_format, rows)
    shard = Shard(tmp_path / "shard", page_format, 3)
    stream = np.concatenate(list(rows["tokens"]))
    for start in range(len(stream)):
        for stop in range(start, len(stream) + 1):
            np.testing.assert_array_equal(shard.read_span(start, stop), stream[start:stop])
