"""A bucket on loopback that refuses what it is told to, and folders."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from bucket_server import BUCKET, Bucket
from loopback import metadata_server

from jaxgpt.doctor import bucket as checking
from jaxgpt.doctor import metadata_server as metadata
from jaxgpt.doctor.bucket import check_place
from jaxgpt.doctor.check import Check, Line

URL = f"gs://{BUCKET}/runs/mine"


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bucket:
    server.empty()
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setattr(metadata, "_PRODUCT", tmp_path / "product_name")
    return server


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    zone = "us-central1-a"
    with metadata_server(zone=zone) as (host, _):
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        yield zone


def lines(url: str = URL, writes: bool = True) -> list[Line]:
    return Check("bucket", lambda: check_place(url, writes), 20).lines()


@pytest.mark.parametrize("url", [URL, f"{URL}/", f"gs://{BUCKET}"])
def test_a_bucket_that_serves(bucket: Bucket, url: str) -> None:
    bucket.put("runs/mine/checkpoint", b"kept")
    used, region = lines(url)
    assert used.level == region.level == "ok"
    for step in ("lists", "writes", "reads", "deletes"):
        assert f" {step} in " in used.said
    assert region.said == f"{url.rstrip('/')} is in us; this machine does not say where it is"
    # In the folder itself, as all that is listed: the right to write may begin there.
    folder = url.removeprefix(f"gs://{BUCKET}").strip("/")
    assert len(bucket.begun) == 1
    assert f"/{bucket.begun[0]}".startswith(f"/{folder}/.doctor-".replace("//", "/"))
    listed = [
        parse_qs(query)["prefix"][0] for _, path in bucket.requests if "prefix=" in (query := urlsplit(path).query)
    ]
    assert listed
    assert all(f"/{prefix}".startswith(f"/{folder}/.doctor-".replace("//", "/")) for prefix in listed)
    assert bucket.objects() == {"runs/mine/checkpoint": b"kept"}


def test_what_is_only_read_is_not_written_to(bucket: Bucket) -> None:
    bucket.fault = lambda method, path: 403 if method != "GET" else None
    used, _ = lines(writes=False)
    assert used.level == "ok"
    assert "writes" not in used.said
    assert bucket.begun == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_bucket_without_rights(bucket: Bucket, method: str) -> None:
    bucket.fault = lambda this, path: 403 if this == method else None
    (line,) = lines()
    assert line.level == "fail"
    assert "access is denied" in line.said
    assert "Storage Object Admin" in line.said
    assert bucket.objects() == {}


def test_a_bucket_that_does_not_let_read(bucket: Bucket) -> None:
    bucket.fault = lambda method, path: 403 if method == "GET" and path.endswith("object") else None
    (line,) = lines()
    assert line.level == "fail"
    assert "access is denied" in line.said
    assert bucket.objects() == {}  # what was tried out is gone all the same


def test_what_arrived_although_it_seemed_not_to_is_deleted(bucket: Bucket) -> None:
    bucket.fault = lambda method, path: "lost" if method == "POST" else None
    (line,) = lines()
    assert line.level == "fail"
    assert "could not be reached" in line.said
    assert bucket.begun
    assert bucket.objects() == {}


def test_the_time_of_reading_is_that_of_its_content_as_well(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(method: str, path: str) -> None:
        if method == "GET" and "alt=media" in path:
            time.sleep(0.3)

    bucket.fault = slow
    took = int(lines()[0].said.partition(" reads in ")[2].partition(" ms")[0])
    assert took >= 300


def test_what_can_not_be_deleted_is_named(bucket: Bucket) -> None:
    bucket.fault = lambda method, path: 403 if method == "DELETE" else None
    line = lines()[0]
    (left,) = bucket.objects()
    assert line.level == "fail"
    assert line.said.endswith(f"; gs://{BUCKET}/{left} stays there: delete it by hand")


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    (line,) = lines("gs://no-such-bucket/folder")
    assert line == Line("fail", "bucket", "gs://no-such-bucket does not exist; check the name")


def test_a_url_without_a_bucket(bucket: Bucket) -> None:
    assert lines("gs://") == [Line("fail", "bucket", "gs:// names no bucket; give gs://BUCKET/FOLDER")]


def test_a_service_out_of_reach(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    (line,) = lines()
    assert line.level == "fail"
    assert line.said.startswith("127.0.0.1 can't be reached at port 9 (")


def test_the_region_of_the_machine(bucket: Bucket, in_zone: str) -> None:
    bucket.set_location("US-CENTRAL1")
    assert lines()[1] == Line("ok", "region", f"{URL} is in us-central1, this machine in us-central1")
    bucket.set_location("US-EAST1")
    line = lines()[1]
    assert line.level == "warn"
    assert line.said.startswith(f"{URL}: ")
    assert "the bucket is in us-east1, not in us-central1, and reading across regions costs money" in line.said


def test_a_bucket_that_does_not_say_where_it_is(bucket: Bucket, in_zone: str) -> None:
    """The right to use objects does not contain the one to look at the bucket."""
    bucket.fault = lambda method, path: 403 if method == "GET" and path.split("?")[0].endswith(f"/b/{BUCKET}") else None
    used, region = lines()
    assert used.level == "ok"
    assert region.level == "warn"
    assert "does not say where it is" in region.said


def test_a_slow_bucket_is_a_warning(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_SLOW_SECONDS", 0.0)
    assert lines()[0].level == "warn"


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (line,) = lines(str(tmp_path))
    assert line.level == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert lines(str(tmp_path / "file"))[0].said.endswith(
        "is no folder; give gs://BUCKET/FOLDER or a folder that is there"
    )

    def full(self: Path, content: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert lines(str(tmp_path))[0].said.startswith(f"{tmp_path}: No space left on device; ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", closed)
    assert lines(str(tmp_path))[0].said.startswith(f"{tmp_path}: Permission denied; ")
