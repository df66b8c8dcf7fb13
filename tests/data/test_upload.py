"""Pages to a bucket on loopback: every byte arrives, and failures cost only what they hit."""

import json
import shutil
from dataclasses import asdict

import pytest
from bucket_server import BUCKET, content_of, write_random_pages

from jaxgpt.data import storage
from jaxgpt.data.upload import UploadReport, upload
from jaxgpt.errors import UserError

URL = f"gs://{BUCKET}/corpora/mine"
BIG, SMALL = "pages-00001.tfrecord", "pages-00000.tfrecord"


@pytest.fixture
def bucket(server, monkeypatch):
    monkeypatch.setattr(storage, "_CHUNK", 1 << 20)
    server.empty()
    return server


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = write_random_pages(tmp_path_factory.mktemp("upload") / "pages")
    (folder / ".hidden").write_text("of an editor")
    return folder


@pytest.fixture
def own_pages(pages, tmp_path):
    """A copy that the test may spoil."""
    return shutil.copytree(pages, tmp_path / "pages")


def names(bucket):
    return [name.removeprefix("corpora/mine/") for name in bucket.begun]


def check_whole(bucket, folder):
    expected = {f"corpora/mine/{name}": content for name, content in content_of(folder).items()}
    assert bucket.objects() == expected


def test_every_byte_arrives_and_the_manifest_last(bucket, pages):
    content = content_of(pages)
    n_bytes = sum(map(len, content.values()))
    assert upload(pages, URL + "/", threads=3) == UploadReport(URL, 5, n_bytes, 5, n_bytes)
    check_whole(bucket, pages)
    assert sorted(names(bucket)) == sorted(content)
    assert names(bucket)[-1] == "manifest.json"
    chunks = [path for method, path in bucket.requests if method == "POST" and "upload_id" in path]
    assert len(chunks) == -(-len(content[BIG]) // (1 << 20))


def test_a_second_call_sends_nothing(bucket, pages):
    first = upload(pages, URL)
    bucket.heal()
    assert upload(pages, URL) == UploadReport(URL, 5, first.bytes, 0, 0)
    assert {method for method, _ in bucket.requests} == {"GET"}


@pytest.mark.parametrize("how", [503, "drop", "lost", "cut", "flip"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_failures_that_pass_are_overcome(bucket, pages, how, method):
    bucket.fail_first(4, how, method)
    upload(pages, URL, threads=2)
    check_whole(bucket, pages)


def test_a_failure_in_the_middle_of_a_large_object_is_overcome(bucket, pages):
    failed = []

    def fault(method, path):
        if "upload_id" in path and len(failed) < 9:
            failed.append(path)
            return [None, None, "drop", 503, "lost", "drop", None, 503, "lost"][len(failed) - 1]
        return None

    bucket.fault = fault
    upload(pages, URL)
    assert len(failed) == 9
    check_whole(bucket, pages)


def test_a_service_that_stays_down_ends_the_call_and_the_next_one_goes_on(bucket, pages):
    chunks = []

    def fault(method, path):
        if "upload_id" in path:
            chunks.append(path)
        return 503 if len(chunks) > 3 and "upload_id" in path else None

    bucket.fault = fault
    # The three small files arrive; the large one does not, and so the manifest is not even tried.
    with pytest.raises(
        UserError, match=f"3 of 5 files are in {URL}, and the same command goes on .*503.*check the net"
    ):
        upload(pages, URL)
    assert "manifest.json" not in names(bucket)
    assert f"corpora/mine/{BIG}" not in bucket.objects()
    bucket.heal()
    report = upload(pages, URL)
    assert names(bucket) == [BIG, "manifest.json"]
    assert (report.files_sent, report.files) == (2, 5)
    check_whole(bucket, pages)


def test_a_service_that_is_down_from_the_start(bucket, pages):
    bucket.fault = lambda method, path: "drop"
    with pytest.raises(UserError, match=r"could not be reached .* run the same command again"):
        upload(pages, URL)


def test_bytes_that_never_arrive_right_are_an_error(bucket, pages):
    bucket.fault = lambda method, path: "flip" if "upload_id" in path and method == "POST" else None
    with pytest.raises(UserError, match=r"3 of 5 files are in .* what arrived was not what was sent"):
        upload(pages, URL)
    assert "corpora/mine/manifest.json" not in bucket.objects()


def test_a_damaged_object_is_sent_again(bucket, pages):
    upload(pages, URL)
    good = bucket.objects()[f"corpora/mine/{SMALL}"]
    bucket.put(f"corpora/mine/{SMALL}", good[:-1] + bytes([good[-1] ^ 1]))
    bucket.put("corpora/mine/tokenizer/tokenizer.json", b"cut off")
    bucket.heal()
    assert upload(pages, URL).files_sent == 2
    assert sorted(names(bucket)) == [SMALL, "tokenizer/tokenizer.json"]
    check_whole(bucket, pages)


@pytest.mark.parametrize(
    ("location", "regions", "wanted"),
    [
        ("US-CENTRAL1", (), "us-central1"),
        ("us-central1", (), "US-Central1"),
        ("US", (), "us-east5"),
        ("US", (), "us"),
        ("EU", (), "europe-west4"),
        ("US", ("US-EAST1", "US-WEST1"), "us-west1"),
    ],
)
def test_a_bucket_in_the_region_is_taken(bucket, pages, location, regions, wanted):
    bucket.set_location(location, *regions)
    assert upload(pages, URL, region=wanted).files_sent == 5


@pytest.mark.parametrize(
    ("location", "wanted"),
    [("EUROPE-WEST4", "us-central1"), ("US", "europe-west4"), ("us-east1", "us"), ("EU", "europe-west2")],
)
def test_a_bucket_elsewhere_is_refused(bucket, pages, location, wanted):
    bucket.set_location(location)
    with pytest.raises(UserError, match=f"the bucket is in {location.lower()}, not in {wanted}"):
        upload(pages, URL, region=wanted)
    assert bucket.begun == []


def test_a_dual_region_is_only_in_its_own_regions(bucket, pages):
    bucket.set_location("US", "US-EAST1", "US-WEST1")
    with pytest.raises(UserError, match="the bucket is in us / us-east1 / us-west1, not in us-central1"):
        upload(pages, URL, region="us-central1")


def test_a_missing_bucket_is_refused(bucket, pages):
    for region in (None, "us"):
        with pytest.raises(UserError, match=r"^gs://no-such-bucket does not exist; check the name$"):
            upload(pages, "gs://no-such-bucket/mine", region=region)
    assert bucket.begun == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_forbidden_bucket_is_refused(bucket, pages, status):
    bucket.fault = lambda method, path: status
    with pytest.raises(UserError, match=f"^gs://{BUCKET}: access is denied"):
        upload(pages, URL)
    assert bucket.begun == []


def test_writing_that_is_forbidden_is_not_tried_again(bucket, pages):
    bucket.fault = lambda method, path: 403 if method == "POST" else None
    with pytest.raises(UserError, match="access is denied"):
        upload(pages, URL, threads=1)
    assert len(bucket.begun) == len(set(bucket.begun)) < 4


def test_a_folder_of_other_pages_is_refused(bucket, pages, tmp_path):
    upload(write_random_pages(tmp_path / "other", seed=1, rows=(1, 2)), URL)
    before = bucket.objects()
    bucket.heal()
    with pytest.raises(UserError, match=f"{URL} holds other pages .*; give a new folder"):
        upload(pages, URL)
    assert bucket.begun == []
    assert bucket.objects() == before


def test_a_folder_of_something_else_is_refused(bucket, pages):
    bucket.put("corpora/mine/thesis.tex", b"...")
    with pytest.raises(UserError, match=f"{URL} already holds something else .thesis.tex"):
        upload(pages, URL)
    assert bucket.begun == []
    upload(pages, URL + "2")  # a name that merely begins alike


def test_a_shard_damaged_on_this_disk_is_not_sent(bucket, own_pages):
    content = bytearray((own_pages / SMALL).read_bytes())
    content[5000] ^= 1
    (own_pages / SMALL).write_bytes(content)
    with pytest.raises(UserError, match=rf"{SMALL} is damaged: its CRC-32C is \w+, it was \w+ when it was written"):
        upload(own_pages, URL)
    assert not {f"corpora/mine/{SMALL}", "corpora/mine/manifest.json"} & bucket.objects().keys()


def test_a_folder_that_is_not_whole_is_refused(bucket, own_pages):
    (own_pages / SMALL).write_bytes(b"short")
    with pytest.raises(UserError, match=rf"{SMALL} has 5 bytes, its manifest says \d+"):
        upload(own_pages, URL)
    (own_pages / SMALL).unlink()
    with pytest.raises(UserError, match=f"{SMALL} is missing"):
        upload(own_pages, URL)
    (own_pages / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json is missing; the build did not finish"):
        upload(own_pages, URL)
    assert bucket.requests == []


def test_a_local_path_is_no_destination(pages):
    with pytest.raises(UserError, match="/tmp/x is not in a bucket; give gs://BUCKET/FOLDER"):
        upload(pages, "/tmp/x")


def test_the_report_is_json(bucket, pages):
    assert json.loads(json.dumps(asdict(upload(pages, URL))))["files"] == 5
