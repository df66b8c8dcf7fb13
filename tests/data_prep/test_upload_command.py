"""The command with buckets, as sources and as the place where pages go."""

import gzip
import sys

import pytest
from bucket_server import BUCKET, content_of
from build_command import run
from small_corpora import GOOD, large_talks

from data_prep import make_tfrecords
from data_prep.make import make
from data_prep.options import Options
from jaxgpt import command

URL = f"gs://{BUCKET}/corpora/mine"


@pytest.fixture
def bucket(server):
    server.empty()
    return server


def below(bucket, folder):
    objects = bucket.objects()
    return {name.removeprefix(folder): content for name, content in objects.items() if name.startswith(folder)}


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket_with_failures_in_mid_upload(bucket, tmp_path):
    """The pages are those of the same file on this disk, and every object is the local file."""
    large_talks(tmp_path / "talks.jsonl")
    packed = gzip.compress((tmp_path / "talks.jsonl").read_bytes())
    (tmp_path / "talks.jsonl.gz").write_bytes(packed)
    bucket.put("input/talks.jsonl.gz", packed)
    failed = []

    def fault(method, path):
        if method == "POST" and "upload_id" in path and len(failed) < 2:
            failed.append(path)
            return ["drop", 503][len(failed) - 1]
        return None

    bucket.fault = fault
    arguments = ["--shards", "1", "--valid_fraction", "0", "--upload", URL, "--region", "us"]
    done = run(f"dialogue:gs://{BUCKET}/input/*.jsonl.gz", tmp_path / "out", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(failed) == 2, "the shard was to be sent in pieces"
    assert below(bucket, "corpora/mine/") == content_of(tmp_path / "out")
    assert bucket.begun[-1] == "corpora/mine/manifest.json"

    options = Options([f"dialogue:{tmp_path}/talks.jsonl.gz"], shards=1, valid_fraction=0)
    manifest = make(options, tmp_path / "local", 1)
    from_bucket, from_disk = content_of(tmp_path / "out"), content_of(tmp_path / "local")
    assert {name for name in from_disk if from_disk[name] != from_bucket.get(name)} == {"manifest.json"}
    assert manifest.splits["train"].records == 907


def test_several_packed_files_of_a_bucket_give_the_pages_of_the_local_ones(bucket, tmp_path):
    for number in range(3):
        lines = "".join(f'{{"text": "file {number} document {at} naïve 🤖"}}\n' for at in range(100))
        (tmp_path / f"{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        bucket.put(f"input/{number}.jsonl.gz", (tmp_path / f"{number}.jsonl.gz").read_bytes())
    sources = (f"jsonl:{tmp_path}/*.jsonl.gz", f"jsonl:gs://{BUCKET}/input/*.jsonl.gz")
    manifests = [
        make(Options([source], shards=4, row_length=61, valid_fraction=0.1), tmp_path / str(number), 1)
        for number, source in enumerate(sources)
    ]
    contents = [content_of(tmp_path / str(number)) for number in range(2)]
    assert contents[0].keys() == contents[1].keys()
    assert {name for name in contents[0] if contents[0][name] != contents[1][name]} == {"manifest.json"}
    assert manifests[0].splits == manifests[1].splits
    assert manifests[0].sources == [{**manifests[1].sources[0], "source": sources[0]}]
    assert manifests[0].sources[0]["kept"] == 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--upload": "gs://no-such-bucket/mine"}, "gs://no-such-bucket does not exist; check the name"),
        ({"--region": "europe-west4"}, "the bucket is in us, not in europe-west4"),
        ({"--source": "dialogue:gs://no-such-bucket/*.jsonl"}, "gs://no-such-bucket"),
        ({"--source": f"dialogue:gs://{BUCKET}/none/*.jsonl"}, f"no file matches gs://{BUCKET}/none/*.jsonl"),
        ({"--output": URL}, "give a local folder there and the bucket as --upload"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_refused_before_anything_is_built(
    bucket, tmp_path, monkeypatch, capsys, changes, message
):
    (tmp_path / "talks.jsonl").write_text(GOOD)
    options = {"--source": f"dialogue:{tmp_path}/talks.jsonl", "--output": str(tmp_path / "out"), "--upload": URL}
    arguments = [part for option in ({**options, "--region": "us"} | changes).items() for part in option]
    monkeypatch.setattr(sys, "argv", ["make_tfrecords.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        command.run(make_tfrecords.main)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()
    assert bucket.begun == []


@pytest.mark.slow
def test_a_missing_bucket_ends_the_process_with_exit_code_2(bucket, tmp_path):
    (tmp_path / "talks.jsonl").write_text(GOOD)
    done = run(f"dialogue:{tmp_path}/talks.jsonl", tmp_path / "out", "--upload", "gs://no-such-bucket/mine")
    assert done.returncode == 2
    assert done.stderr == "error: gs://no-such-bucket does not exist; check the name\n"
    assert not (tmp_path / "out").exists()
