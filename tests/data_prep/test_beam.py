"""Pages by Apache Beam against those of the pool on this machine, byte for byte."""

import gzip
import json

import pytest
from test_make_tfrecords import hash_of, random_talks, write_talks

from data_prep import beam
from data_prep.make import make
from data_prep.options import Options


def corpus(folder):
    """A plain file, a compressed one and loose texts: what is cut anywhere, and what is read from its start."""
    plain = write_talks(folder / "plain.jsonl", random_talks(211))
    lines = "".join(json.dumps(talk) + "\n" for talk in random_talks(307, seed=1))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number in range(7):
        (folder / f"{number}.txt").write_text(f"document {number} " * 50)
    return [plain, f"dialogue:{folder}/packed.jsonl.gz", f"text:{folder}/*.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_beam_writes_the_same_bytes(tmp_path, workers):
    options = Options(corpus(tmp_path), row_length=61, shards=11, valid_fraction=0.1)
    make(options, tmp_path / "local", 2)
    workers_options = [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
    make(options, tmp_path / "beam", 1, beam.beam_writer(workers_options))
    assert hash_of(tmp_path / "beam") == hash_of(tmp_path / "local")


def test_shards_that_share_a_packed_file_go_to_one_worker(tmp_path):
    class Source:
        size = 1000

        def fingerprint(self):
            return [
                {"path": "a.jsonl", "bytes": 400},
                {"path": "b.gz", "bytes": 350},
                {"path": "c.jsonl", "bytes": 250},
            ]

    class Plan:
        sources, size, n_shards = (Source(),), 1000, 10

    # b.gz takes the positions 400 to 750: it begins with shard 4 and ends within shard 7.
    assert list(beam.groups_of_shards(Plan(), list(range(10)))) == [[0], [1], [2], [3], [4, 5, 6, 7], [8], [9]]
    assert list(beam.groups_of_shards(Plan(), [2, 5, 7, 9])) == [[2], [5], [7], [9]]
    assert list(beam.groups_of_shards(Plan(), [0, 5, 6])) == [[0], [5, 6]]
