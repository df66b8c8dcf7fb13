"""Real pages, in a folder and in a bucket, and what can be wrong with them at a glance."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
from bucket_server import BUCKET, Bucket

from jaxgpt.config import Config, DataConfig
from jaxgpt.doctor import machine
from jaxgpt.doctor.check import Check, Line
from jaxgpt.doctor.pages import check_pages
from jaxgpt.model_config import ModelConfig

URL = f"gs://{BUCKET}/pages"
MODEL = ModelConfig(n_positions=64)  # of GPT-2's vocabulary


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make_pages(tmp_path_factory.mktemp("pages"), "eos")


@pytest.fixture
def pages(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "pages"))


def lines(path: object, model: ModelConfig | None = MODEL, cache: Path | None = None) -> list[Line]:
    data = DataConfig(path=str(path), cache=str(cache) if cache else None)
    cfg = Config(output="", data=data, model=model or ModelConfig())
    return Check("pages", lambda: check_pages(cfg, model is not None), 30).lines()


def shard(folder: Path) -> Path:
    return min(folder.glob("*train*"))


def test_pages_that_fit(pages: Path) -> None:
    read, tokenizer = lines(pages)
    assert read.level == tokenizer.level == "ok"
    manifest = json.loads((pages / "manifest.json").read_text())
    rows = sum(shard["records"] for shard in manifest["splits"]["train"]["shards"])
    assert (
        f"{pages}: {rows} rows of 47 tokens in 3 shards, which serve any number of hosts; 64 rows read in " in read.said
    )
    assert tokenizer == Line("ok", "tokenizer", "gpt2, 50,257 ids, as model.vocab_size")


def test_without_a_model_nothing_has_to_fit_it(pages: Path) -> None:
    other = ModelConfig(vocab_size=50304, n_positions=8)
    assert [line.level for line in lines(pages, other)] == ["fail"]
    assert [line.level for line in lines(pages, None)] == ["ok", "ok"]


def test_a_model_of_another_vocabulary(pages: Path) -> None:
    read, tokenizer = lines(pages, replace(MODEL, vocab_size=50304))
    assert read.level == "ok"
    assert tokenizer.level == "fail"
    assert "does not fit model.vocab_size 50304; set model.vocab_size to 50257" in tokenizer.said


def test_rows_that_are_too_long(pages: Path) -> None:
    (line,) = lines(pages, replace(MODEL, n_positions=46))
    said = f"rows of 47 tokens in {pages} are longer than model.n_positions 46; raise model.n_positions or set "
    assert line == Line("fail", "pages", f"{said}data.seq_len")


def cut(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def flip(folder: Path) -> None:
    """A bit of every row, as no row is sure to be read."""
    content = bytearray(shard(folder).read_bytes())
    size = len(content) // json.loads((folder / "manifest.json").read_text())["splits"]["train"]["shards"][0]["records"]
    for end in range(size, len(content) + 1, size):
        content[end - 20] ^= 1
    shard(folder).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing; the build did not finish"),
        (lambda folder: shard(folder).unlink(), "train"),
        (cut, "bytes"),
        (flip, "CRC"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer is missing; build the pages again"),
    ],
)
def test_damage(pages: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(pages)
    line = lines(pages)[-1]
    assert line.level == "fail"
    assert said in line.said


def test_a_folder_is_named_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = lines("./p")
    assert line.said.startswith(
        "p/manifest.json is missing; build pages there first: python data_prep/make_tfrecords.py "
    )
    (line,) = lines("/")
    assert line.said.startswith("/manifest.json is missing; ")


def test_another_tokenizer_beside_the_pages(pages: Path) -> None:
    path = pages / "tokenizer/tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))
    line = lines(pages)[-1]
    assert (line.level, line.name) == ("fail", "tokenizer")
    assert "tokenizer has the hash " in line.said


@pytest.fixture
def bucket(server: Bucket, pages: Path) -> Bucket:
    server.empty()
    for path in pages.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            server.put(f"pages/{path.relative_to(pages).as_posix()}", path.read_bytes())
    server.requests.clear()
    return server


def test_pages_in_a_bucket_are_not_copied(bucket: Bucket, pages: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    read, tokenizer = lines(f"{URL}/", cache=cache)
    assert read.level == tokenizer.level == "ok"
    assert read.said.startswith(f"{URL}: ")
    shards = sum(path.stat().st_size for path in pages.glob("*.tfrecord*"))
    assert f"training copies {shards / 1e6:.3g} MB to {cache}, which has " in read.said
    assert not cache.exists()
    assert not [path for _, path in bucket.requests if "tfrecord" in path]


def test_pages_that_are_in_the_cache_need_no_room(bucket: Bucket, tmp_path: Path) -> None:
    from jaxgpt.data.cache import local_pages

    local_pages(URL, ("train", "valid"), tmp_path / "cache")
    assert lines(URL, cache=tmp_path / "cache")[0].said.endswith(f"; all of them are in {tmp_path / 'cache'}")


def test_the_copy_of_other_pages_is_no_copy_of_these(bucket: Bucket, pages: Path, tmp_path: Path) -> None:
    from jaxgpt.data.cache import folder_of, local_pages

    cache = tmp_path / "cache"
    # Of another URL, whose last part begins with ours; of ours, but cut off; and whole, but of other pages' manifest.
    for path in pages.rglob("*"):
        if path.is_file():
            bucket.put(f"other/pages-v2/{path.relative_to(pages).as_posix()}", path.read_bytes())
    local_pages(f"gs://{BUCKET}/other/pages-v2", ("train", "valid"), cache)
    sizes = {path.name: path.stat().st_size for path in pages.glob("*.tfrecord*")}
    said = f"training copies {sum(sizes.values()) / 1e6:.3g} MB to "
    assert said in lines(URL, cache=cache)[0].said
    local_pages(URL, ("train", "valid"), cache)
    copy = folder_of(URL, cache)
    assert "all of them are in" in lines(URL, cache=cache)[0].said
    cut(copy)
    assert f"training copies {sizes[shard(copy).name] / 1e6:.3g} MB to " in lines(URL, cache=cache)[0].said
    shutil.copy(shard(pages), shard(copy))
    (copy / "manifest.json").write_text((pages / "manifest.json").read_text() + "\n")
    assert said in lines(URL, cache=cache)[0].said


def test_a_split_that_is_both_is_copied_once(bucket: Bucket, pages: Path, tmp_path: Path) -> None:
    data = DataConfig(path=URL, valid_split="train", cache=str(tmp_path / "cache"))
    line = next(iter(check_pages(Config(output="", data=data), False)))
    n_bytes = sum(path.stat().st_size for path in pages.glob("*train*"))
    assert f"training copies {n_bytes / 1e6:.3g} MB to " in line.said


def test_a_disk_that_is_too_small_for_the_copy(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(10))
    line = lines(URL, cache=tmp_path)[0]
    assert line.level == "fail"
    assert line.said.endswith("; make room, or name a folder on another disk with data.cache")


@pytest.mark.parametrize("content", [b"short", None], ids=["shorter", "of the same size"])
def test_a_bucket_with_other_shards_than_its_manifest_says(bucket: Bucket, pages: Path, content: bytes | None) -> None:
    name = shard(pages).name
    bucket.put(f"pages/{name}", content or shard(pages).read_bytes()[:-1] + b"x")
    (line,) = lines(URL)
    assert line.level == "fail"
    assert f"{URL}: 1 of 6 shards are missing or other than its manifest says ({name}); upload" in line.said


def test_what_is_wrong_in_a_bucket_is_named_by_its_url(bucket: Bucket) -> None:
    line = lines(URL, replace(MODEL, vocab_size=7))[-1]
    assert line.said.startswith(f"{URL}/manifest.json: vocabulary of 50257 ids")
    (missing,) = lines(f"gs://{BUCKET}/nothing")
    assert missing.said == f"gs://{BUCKET}/nothing has no manifest.json: it is empty; upload pages there"
