"""Objects in a bucket on loopback, against the bytes that were put there."""

import gzip
import io
import subprocess
import sys
import time

import google_crc32c
import numpy as np
import pytest
from bucket_server import BUCKET

from jaxgpt.data import storage
from jaxgpt.data.storage import find, find_below, locations, open_binary
from jaxgpt.errors import UserError

ROOT = f"gs://{BUCKET}"
BIG = np.random.default_rng(1).integers(0, 256, 9_000_017, np.uint8).tobytes()
SMALL = {
    "a/one.txt": b"1",
    "a/two.txt": b"22",
    "a/b/three.txt": b"333",
    "ab/five.jsonl": b"55555",
}


@pytest.fixture
def bucket(server):
    server.empty()
    return server


@pytest.fixture
def filled(bucket):
    for name, content in SMALL.items():
        bucket.put(name, content)
    bucket.put("big.bin", BIG)
    return bucket


def names(found):
    return [remote.url.removeprefix(ROOT + "/") for remote in found]


def test_find_knows_urls_and_globs(filled):
    assert names(find(f"{ROOT}/a/*.txt")) == ["a/one.txt", "a/two.txt"]
    assert names(find(f"{ROOT}/a/**/*.txt")) == ["a/b/three.txt", "a/one.txt", "a/two.txt"]
    assert names(find(f"{ROOT}/*")) == ["big.bin"]
    assert names(find(f"{ROOT}/a*/*.[jt]*")) == ["a/one.txt", "a/two.txt", "ab/five.jsonl"]
    assert names(find(f"{ROOT}/a/two.txt")) == ["a/two.txt"]
    assert find(f"{ROOT}/a") == find(f"{ROOT}/nothing*") == find(f"{ROOT}/nothing") == []


def test_find_gives_size_and_checksum_in_hex(filled):
    (found,) = find(f"{ROOT}/big.bin")
    assert found == storage.Remote(f"{ROOT}/big.bin", len(BIG), f"{google_crc32c.value(BIG):08x}")


def test_find_below_gives_names_within_the_folder(filled):
    found = find_below(f"{ROOT}/a/")
    assert {name: remote.bytes for name, remote in found.items()} == {"one.txt": 1, "two.txt": 2, "b/three.txt": 3}
    assert find_below(f"{ROOT}/nothing") == {}
    assert "a/b/three.txt" in find_below(ROOT)


def test_an_object_reads_like_a_file(filled):
    with open_binary(f"{ROOT}/big.bin") as file:
        assert file.read() == BIG
        assert file.read(1) == b""
        local = io.BytesIO(BIG)
        random = np.random.default_rng(0)
        for _ in range(15):
            at, n = int(random.integers(0, len(BIG) + 100)), int(random.choice([0, 1, 1000, 100_000, 5_000_000]))
            assert file.seek(at) == local.seek(at)
            assert file.read(n) == local.read(n)
            assert file.tell() == local.tell()
        assert file.seek(-7, io.SEEK_END) == len(BIG) - 7
        assert file.seek(3, io.SEEK_CUR) == len(BIG) - 4
        assert file.read() == BIG[-4:]
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)


def test_small_reads_ask_for_a_block_at_a_time(filled):
    with open_binary(f"{ROOT}/big.bin") as file:
        filled.heal()
        pieces = iter(lambda: file.read(10_000), b"")
        assert b"".join(pieces) == BIG
        assert len(filled.requests) == 3  # 9 MB in blocks of 4 MiB
        file.seek(0)
        assert file.read() == BIG
        assert len(filled.requests) == 4


def test_packed_content_is_read_from_the_bucket(bucket):
    lines = b"".join(b"line %d\n" % number for number in range(200_000))
    bucket.put("lines.txt.gz", gzip.compress(lines, 1))
    with open_binary(f"{ROOT}/lines.txt.gz") as raw, gzip.open(raw) as content:
        assert content.read() == lines


def test_a_local_file_opens_too(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with open_binary(str(tmp_path / "x")) as file:
        assert file.read() == b"abc"


@pytest.mark.parametrize("how", [503, 429, "cut", "lost"])
def test_reading_goes_on_after_failures(filled, how):
    filled.fail_first(3, how, "GET")
    with open_binary(f"{ROOT}/big.bin") as file:
        file.seek(4_000_000)
        assert file.read(2_000_000) == BIG[4_000_000:6_000_000]
        filled.fail_first(2, how, "GET")
        assert file.read() == BIG[6_000_000:]


def test_a_service_that_stays_down_is_named(filled):
    with open_binary(f"{ROOT}/big.bin") as file:
        filled.fault = lambda method, path: "lost"
        with pytest.raises(
            storage.UnreachableError, match=r"big\.bin could not be reached .* run the same command again"
        ):
            file.read(1)
    filled.fault = lambda method, path: 503
    with pytest.raises(storage.UnreachableError, match=r"the service answered .*503"):
        find(f"{ROOT}/a/*")


@pytest.mark.parametrize("status", [401, 403])
def test_denied_access_says_how_to_get_it(filled, status):
    filled.fault = lambda method, path: status
    for call in (find, find_below, open_binary, locations):
        with pytest.raises(UserError, match=r"access is denied .*`gcloud auth application-default login") as error:
            call(f"{ROOT}/big.bin")
        assert not isinstance(error.value, storage.UnreachableError)


def test_what_is_missing_is_named(bucket):
    with pytest.raises(UserError, match=f"{ROOT}/gone.txt does not exist"):
        open_binary(f"{ROOT}/gone.txt")
    with pytest.raises(UserError, match="gs://no-such-bucket does not exist"):
        find_below("gs://no-such-bucket/pages")
    with pytest.raises(UserError, match=r"gs://no-such-bucket/\* does not exist"):
        find("gs://no-such-bucket/*")


def test_an_object_replaced_while_it_is_read_is_an_error(filled):
    with open_binary(f"{ROOT}/big.bin") as file:
        assert file.read(10) == BIG[:10]
        filled.put("big.bin", b"x" * len(BIG))
        file.seek(8_000_000)
        with pytest.raises(UserError, match=r"big\.bin does not exist"):
            file.read(10)


def test_without_gcsfs_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    with pytest.raises(UserError, match="needs the package gcsfs; pip install gcsfs"):
        find("gs://bucket/x")


def test_in_threads_stops_at_the_first_error():
    begun = []

    def work(number):
        begun.append(number)
        if number == 2:
            raise UserError("two")
        time.sleep(0.002)
        return number

    with pytest.raises(UserError, match="two"):
        list(storage.in_threads(work, range(1000), 1))
    assert len(begun) < 1000
    assert sorted(storage.in_threads(lambda number: -number, range(50), 3)) == list(range(-49, 1))


def test_a_process_that_used_a_bucket_ends(filled):
    code = f"""
from jaxgpt.data.storage import find, open_binary
file = open_binary("{ROOT}/big.bin")  # left open on purpose
print(len(find("{ROOT}/a/*")), len(file.read(100)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("2 100\n", "", 0)
