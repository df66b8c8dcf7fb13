"""Pages by Apache Beam against those of the pool on this machine, byte for byte."""

import gzip
import json
import shutil

import pytest
from built_pages import hash_of
from small_corpora import random_talks, write_talks

from data_prep import beam
from data_prep.make import make
from data_prep.options import Options
from data_prep.sources.dialogue import Dialogue
from data_prep.sources.files import InputFile
from jaxgpt.errors import UserError


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
    files = (InputFile("a.jsonl", 400, ""), InputFile("b.jsonl.gz", 350, ""), InputFile("c.jsonl", 250, ""))

    class Plan:
        sources, size, n_shards = (Dialogue("", files),), 1000, 10

    # b.jsonl.gz takes the positions 400 to 750: it begins with shard 4 and ends within shard 7.
    assert list(beam.groups_of_shards(Plan(), list(range(10)))) == [[0], [1], [2], [3], [4, 5, 6, 7], [8], [9]]
    assert list(beam.groups_of_shards(Plan(), [2, 5, 7, 9])) == [[2], [5], [7], [9]]
    assert list(beam.groups_of_shards(Plan(), [0, 5, 6])) == [[0], [5, 6]]


def test_a_runner_that_beam_does_not_know():
    with pytest.raises(UserError, match="--beam_options --runner=FlnkRunner: "):
        beam.beam_writer(["--runner=FlnkRunner"])


@pytest.mark.slow
def test_a_bad_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('["a", "b"]\n["a", 3]\n')
    with pytest.raises(UserError) as error:
        make(Options([f"dialogue:{tmp_path}/a.jsonl"]), tmp_path / "out", 1, beam.beam_writer([]))
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl:2: found 3 ")
    assert "while running" not in str(error.value)


@pytest.mark.slow
def test_another_build_at_the_same_place_is_another_build(tmp_path):
    spec = write_talks(tmp_path / "talks.jsonl", random_talks(23))
    for seed in (1, 2):
        options = Options([spec], row_length=61, shards=2, valid_fraction=0.5, seed=seed)
        for name, write in (("beam", beam.beam_writer([])), ("local", None)):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            make(options, tmp_path / name, 1, write)
        assert hash_of(tmp_path / "beam") == hash_of(tmp_path / "local")
