"""Pages of a bucket as a folder on this machine: the same bytes, only what is needed, and only once."""

import fcntl
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bucket_server import BUCKET, content_of, write_random_pages

from jaxgpt.data import cache
from jaxgpt.data.cache import folder_of, local_pages, page_folder
from jaxgpt.data.loader import Pages, training_batches
from jaxgpt.data.records import crc32c_of_file
from jaxgpt.data.storage import UnreachableError
from jaxgpt.data.upload import upload
from jaxgpt.errors import UserError

URL = f"gs://{BUCKET}/corpora/mine"
BOTH = ("train", "valid")
FIRST, BIG, VALID = "pages-00000.tfrecord", "pages-00001.tfrecord", "pages-00002.tfrecord"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return write_random_pages(tmp_path_factory.mktemp("cache") / "pages", rows=(11, 300, 7))


@pytest.fixture
def bucket(server, pages):
    server.empty()
    upload(pages, URL)
    server.heal()
    return server


def fetched(bucket):
    """Names of the objects whose content was asked for."""
    return sorted({path.split("?")[0].rpartition("%2F")[2] for _, path in bucket.requests if "alt=media" in path})


def test_the_copy_is_the_folder(bucket, pages, tmp_path):
    folder = local_pages(URL, BOTH, tmp_path)
    assert folder == folder_of(f"{URL}/", tmp_path)
    assert folder.parent == tmp_path
    assert content_of(folder) == content_of(pages)
    ours, theirs = (
        training_batches(Pages(folder, "train"), 8, seed=3),
        training_batches(Pages(pages, "train"), 8, seed=3),
    )
    for _ in range(5):
        (a, at), (b, also_at) = next(ours), next(theirs)
        assert at == also_at
        assert all(np.array_equal(a[name], b[name]) for name in b)


def test_only_the_splits_in_use_are_copied(bucket, pages, tmp_path):
    content = content_of(pages)
    folder = local_pages(URL + "/", ["valid", "valid"], tmp_path)
    assert content_of(folder) == {name: content[name] for name in content if name not in (FIRST, BIG)}
    bucket.heal()
    assert local_pages(URL, BOTH, tmp_path) == folder
    assert fetched(bucket) == [FIRST, BIG]
    assert content_of(folder) == content


def test_a_second_call_downloads_nothing(bucket, tmp_path):
    folder = local_pages(URL, BOTH, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    bucket.heal()
    assert local_pages(URL, BOTH, tmp_path) == folder
    assert fetched(bucket) == []
    assert len(bucket.requests) == 1
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if not path.name.startswith("."))


def test_each_url_has_its_own_folder(bucket, pages, tmp_path):
    upload(pages, f"gs://{BUCKET}/other/mine")
    assert local_pages(URL, ["valid"], tmp_path) != local_pages(f"gs://{BUCKET}/other/mine", ["valid"], tmp_path)


@pytest.mark.parametrize("how", [503, "drop", "lost", "cut"])
def test_failures_that_pass_are_overcome(bucket, pages, tmp_path, how):
    bucket.fail_first(5, how, "GET")
    assert content_of(local_pages(URL, BOTH, tmp_path)) == content_of(pages)


def test_an_interrupted_copy_goes_on(bucket, pages, tmp_path):
    bucket.fault = lambda method, path: "cut" if BIG in path else None
    with pytest.raises(UnreachableError, match=rf"{BIG} could not be reached"):
        local_pages(URL, BOTH, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not (folder / BIG).exists()
    (folder / f".{BIG}.{'0123456789abcdef' * 2}.partial").write_bytes(b"what a killed process leaves")
    bucket.heal()
    assert local_pages(URL, BOTH, tmp_path) == folder
    assert BIG in fetched(bucket)
    assert FIRST not in fetched(bucket)
    assert content_of(folder) == content_of(pages)
    assert {path.name for path in folder.glob(".*")} == {".lock"}


def test_other_pages_at_the_url_replace_what_differs(bucket, pages, tmp_path):
    folder = local_pages(URL, BOTH, tmp_path / "cache")
    # The other pages have the same names and sizes, and one shard in common.
    other = write_random_pages(tmp_path / "other", seed=1, rows=(11, 300, 7))
    shutil.copy(pages / FIRST, other / FIRST)
    ours, theirs = Pages(pages, "train").info.shards[0].crc32c, Pages(other, "train").info.shards[0].crc32c
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace(theirs, ours))
    bucket.empty()
    upload(other, URL)
    bucket.heal()
    assert local_pages(URL, BOTH, tmp_path / "cache") == folder
    assert fetched(bucket) == ["manifest.json", BIG, VALID]
    assert content_of(folder) == content_of(other)


def test_a_change_that_is_interrupted_mixes_nothing(bucket, tmp_path):
    folder = local_pages(URL, BOTH, tmp_path / "cache")
    before = content_of(folder)
    other = write_random_pages(tmp_path / "other", seed=1, rows=(11, 300, 7))
    bucket.empty()
    upload(other, URL)
    bucket.fault = lambda method, path: 503 if "alt=media" in path and "tfrecord" not in path else None
    with pytest.raises(UnreachableError):
        local_pages(URL, BOTH, tmp_path / "cache")
    assert not {name for name, content in content_of(folder).items() if name in before and content != before[name]}
    bucket.heal()
    assert content_of(local_pages(URL, BOTH, tmp_path / "cache")) == content_of(other)


def test_a_file_cut_off_in_the_cache_is_copied_again(bucket, pages, tmp_path):
    folder = local_pages(URL, BOTH, tmp_path)
    (folder / FIRST).write_bytes((pages / FIRST).read_bytes()[:-1])
    bucket.heal()
    local_pages(URL, BOTH, tmp_path)
    assert fetched(bucket) == [FIRST]
    assert content_of(folder) == content_of(pages)


def test_what_arrives_damaged_does_not_stay(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "crc32c_of_file", lambda path: "0" * 8 if FIRST in path.name else crc32c_of_file(path))
    with pytest.raises(UserError, match=rf"{FIRST} came with CRC-32C 00000000, the bucket says"):
        local_pages(URL, BOTH, tmp_path)
    assert not list(tmp_path.rglob(FIRST))


def test_a_bucket_that_does_not_fit_its_manifest_is_refused(bucket, tmp_path):
    bucket.put(f"corpora/mine/{BIG}", b"something else")
    with pytest.raises(UserError, match=rf"{BIG} has 14 bytes with CRC-32C \w+, its manifest says \d+ bytes with \w+"):
        local_pages(URL, BOTH, tmp_path)
    assert local_pages(URL, ["valid"], tmp_path).is_dir()  # needs no other split


def test_an_unfinished_upload_is_refused(bucket, tmp_path):
    bucket.storage.delete_file(BUCKET, "corpora/mine/manifest.json")
    with pytest.raises(UserError, match=f"{URL} has no manifest.json: it holds an upload that did not finish"):
        local_pages(URL, BOTH, tmp_path)
    with pytest.raises(UserError, match="it is empty; upload pages there"):
        local_pages(f"gs://{BUCKET}/nothing", BOTH, tmp_path)


def test_an_unknown_split_is_refused(bucket, tmp_path):
    with pytest.raises(UserError, match="has no split 'test'; it has train, valid"):
        local_pages(URL, ["test"], tmp_path)


def test_a_full_disk_is_foreseen(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"has 0\.0 GB free, the pages need 0\.0 GB more; .* data\.cache"):
        local_pages(URL, BOTH, tmp_path)


def test_who_wants_the_same_pages_waits(bucket, pages, tmp_path):
    folder = local_pages(URL, ["valid"], tmp_path)
    bucket.heal()
    waiting = threading.Thread(target=local_pages, args=(URL, BOTH, tmp_path))
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process that is still copying
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert bucket.requests == []
    waiting.join(30)
    assert content_of(folder) == content_of(pages)


def test_where_the_cache_is(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert page_folder(URL, ["valid"]).parent == tmp_path / "xdg" / "jaxgpt"
    assert page_folder("some/folder", ["valid"]) == Path("some/folder")
