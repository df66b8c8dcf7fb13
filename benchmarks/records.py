#!/usr/bin/env python3
"""Pages written and read by jaxgpt, beside TensorFlow's writer and tf.data, in one run:

    python benchmarks/records.py [--json]

Rounds alternate between the systems; medians over rounds, so the ratio holds on a noisy machine. Everything is read
from the page cache by one process. Ours checks the CRC of every row; tf.data checks it, too.
"""

import argparse
import filecmp
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxgpt.data.records import PageFormat, Shard, ShardWriter

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tensorflow as tf  # after the settings that silence it

FORMAT = PageFormat("stream", 1024, 50257)
ROWS_PER_BATCH = 512  # the global batch of GPT-2 training


def write_ours(path: Path, tokens: np.ndarray) -> None:
    writer = ShardWriter(path, FORMAT)
    writer.write({"tokens": tokens})
    writer.close()


def write_tensorflow(path: Path, tokens: np.ndarray) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in tokens:
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.tobytes()]))
            example = tf.train.Example(features=tf.train.Features(feature={"tokens": feature}))
            writer.write(example.SerializeToString(deterministic=True))


def read_ours(shard: Shard, order: np.ndarray) -> int:
    """Random rows, as training reads them, each with its CRC and ids checked; the sum of their first tokens."""
    total = 0
    for start in range(0, len(order), ROWS_PER_BATCH):
        total += int(shard.read(order[start : start + ROWS_PER_BATCH])["tokens"][:, 0].sum(dtype=np.int64))
    return total


def read_tfdata(path: Path, rows: int) -> int:
    """Shuffle, parse, batch: the pipeline of a TensorFlow trainer, with every knob on automatic."""
    spec = {"tokens": tf.io.FixedLenFeature([], tf.string)}

    def parse(examples: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_raw(tf.io.parse_example(examples, spec)["tokens"], tf.uint16)

    dataset = tf.data.TFRecordDataset(str(path)).shuffle(min(rows, 10_000)).batch(ROWS_PER_BATCH)
    dataset = dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    return sum(int(batch[:, 0].sum(dtype=np.int64)) for batch in dataset.as_numpy_iterator())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="rows of 1,024 tokens (default 40,000)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each system, after one that is not")
    parser.add_argument("--json", action="store_true", help="print the result as JSON in the last line")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, FORMAT.vocab_size, (args.rows, FORMAT.row_length)).astype(np.uint16)
    order = rng.permutation(args.rows)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.tfrecord", Path(folder) / "theirs.tfrecord"
        write_ours(ours, tokens)
        kept = Path(shutil.copy(ours, Path(folder) / "kept.tfrecord"))  # the timed writes replace the other one
        shard = Shard(kept, FORMAT, args.rows)  # opened once, as by training
        jobs: dict[str, Callable[[], object]] = {
            "jaxgpt, write": lambda: write_ours(ours, tokens),
            "TFRecordWriter, write": lambda: write_tensorflow(theirs, tokens),
            "jaxgpt, read random rows": lambda: read_ours(shard, order),
            "tf.data, shuffle and parse": lambda: read_tfdata(kept, args.rows),
        }
        for work in jobs.values():
            work()
        expected = int(tokens[:, 0].sum(dtype=np.int64))
        assert read_ours(shard, order) == read_tfdata(kept, args.rows) == expected, "the readers disagree"
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(args.rounds):
            for name, work in jobs.items():
                times[name].append(seconds(work))
        identical = filecmp.cmp(ours, theirs, shallow=False)
    speed = {name: tokens.size / statistics.median(values) / 1e6 for name, values in times.items()}
    width = max(map(len, speed))
    for name, mtok_s in speed.items():
        fastest, slowest = (tokens.size / extreme / 1e6 for extreme in (min(times[name]), max(times[name])))
        print(f"{name:{width}s}  {mtok_s:8.1f} Mtok/s  ({slowest:.1f} to {fastest:.1f})")
    write, tf_write, read, tf_read = speed.values()
    print(f"write {write / tf_write:.1f} times TensorFlow's speed, read {read / tf_read:.1f} times tf.data's")
    print(f"files byte-identical: {identical}")
    if args.json:
        result = {
            "write_mtok_s": write,
            "tensorflow_write_mtok_s": tf_write,
            "read_mtok_s": read,
            "tfdata_read_mtok_s": tf_read,
            "byte_identical": identical,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
