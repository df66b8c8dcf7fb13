"""cloud/bucket against a stand-in for gcloud: what it makes, refuses, copies and costs."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bucket_gcloud
import pytest
from bucket_gcloud import LOGGED_OUT, NO_BILLING, NO_PROJECT, QUOTA
from bucket_world import SETTINGS, Cloud

from cloud.bucket_command import main
from cloud.bucket_prices import as_size, monthly_cost
from cloud.errors import CloudError
from cloud.gcloud import Gcloud
from cloud.settings import load_settings

ROOT = Path(__file__).parents[2]
ABORT = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}}


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return Cloud(tmp_path, monkeypatch)


@pytest.fixture
def made(cloud: Cloud) -> Cloud:
    return cloud.make()


def test_it_is_made_where_the_zone_is(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create"]) == 0
    made = cloud.bucket
    assert made["location"] == "US-CENTRAL1"
    assert made["public_access_prevention"] == "enforced"
    assert made["uniform_bucket_level_access"] is True
    assert made["soft_delete_policy"] == {"retentionDurationSeconds": "0"}
    assert made["lifecycle_config"] == {"rule": [ABORT]}
    # 10^11 bytes are 93.13 GiB, at 2 cents each.
    assert "100 GB in it cost about $1.86 a month" in capsys.readouterr().out


def test_made_again_it_stays_as_it_is(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    before = made.bucket
    capsys.readouterr()
    assert main(["create", "--gb", "500"]) == 0
    assert made.bucket == before
    assert made.calls("storage buckets update") == []
    out = capsys.readouterr().out
    assert "gs://mine is there already, in us-central1\n" in out
    assert "500 GB in it cost about $9.31 a month" in out


def _deletes(**condition: Any) -> dict[str, Any]:
    return {"action": {"type": "Delete"}, "condition": condition}


def test_the_life_cycle_is_extended_and_what_a_user_set_stays(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    users = [
        _deletes(age=30, matchesPrefix=["tmp/"]),
        _deletes(age=30, matchesPrefix=["runs/old/"], matchesSuffix=[".tmp"]),
        _deletes(matchesPrefix=["runs/old/"], isLive=False),
    ]
    made.change_bucket(lifecycle_config={"rule": users})
    for days in ("9", "7"):
        assert main(["create", "--expire-days", days, "--expire-prefix", "runs/old/"]) == 0
    assert made.bucket["lifecycle_config"]["rule"] == [*users, ABORT, _deletes(age=7, matchesPrefix=["runs/old/"])]
    replaced = [line for line in capsys.readouterr().out.splitlines() if line.startswith("replaced in the life cycle")]
    assert [json.loads(line.partition(": ")[2]) for line in replaced] == [_deletes(age=9, matchesPrefix=["runs/old/"])]


def test_another_age_of_the_rule_for_broken_uploads_stays(made: Cloud) -> None:
    users = {**ABORT, "condition": {"age": 14}}
    made.change_bucket(lifecycle_config={"rule": [users]})
    assert main(["create"]) == 0
    assert made.calls("storage buckets update") == []
    assert main(["create", "--expire-days", "7", "--expire-prefix", "x/"]) == 0
    assert made.bucket["lifecycle_config"]["rule"] == [users, _deletes(age=7, matchesPrefix=["x/"])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "europe-west4"], "--region europe-west4 is not that of the zone, us-central1"),
        (["--expire-days", "7"], "--expire-days is 7 and --expire-prefix None; give both"),
        (["--expire-prefix", "runs/"], "--expire-days is None and --expire-prefix runs/; give both"),
        (["--expire-days", "0", "--expire-prefix", "runs/"], "--expire-days is 0; give 1 or more"),
        (["--gb", "-1"], "--gb is -1; give 0 or more"),
        (["--gb", "nan"], "--gb is nan; give 0 or more"),
        (["--gb", "inf"], "--gb is inf; give 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(
    cloud: Cloud, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["create", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert cloud["buckets"] == {}


def test_a_region_may_be_written_as_google_does(cloud: Cloud) -> None:
    assert main(["create", "--region", "US-CENTRAL1"]) == 0
    assert cloud.bucket["location"] == "US-CENTRAL1"


def test_another_region_is_possible_by_force(cloud: Cloud) -> None:
    assert main(["create", "--region", "europe-west4", "--force"]) == 0
    assert cloud.bucket["location"] == "EUROPE-WEST4"


@pytest.mark.parametrize(
    ("location", "regions", "code", "said"),
    [
        ("US-CENTRAL1", [], 0, ""),
        ("EUROPE-WEST4", [], 2, "gs://mine is in europe-west4 and the zone us-central1-a in us-central1"),
        ("US", [], 0, "warning: gs://mine is in us and the zone us-central1-a in us-central1"),
        ("EU", [], 2, "gs://mine is in eu and the zone us-central1-a"),
        ("NAM4", [], 0, ""),  # whose regions gcloud does not tell
        ("EUR4", [], 2, "gs://mine is in eur4"),
        ("US", ["US-CENTRAL1", "US-WEST1"], 0, ""),
        ("US", ["US-EAST1", "US-WEST1"], 2, "gs://mine is in us and the zone"),
    ],
)
def test_a_bucket_elsewhere_is_refused(
    made: Cloud, location: str, regions: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made.change_bucket(location=location, data_locations=regions)
    capsys.readouterr()
    assert main(["create"]) == code
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert said in text
    assert ("costs $0.02 per GiB" in text) == bool(said)
    assert main(["create", "--force"]) == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (LOGGED_OUT, "nobody is logged in; gcloud auth login"),
        (NO_PROJECT, "no project is set; put PROJECT=…"),
        (QUOTA, "Cloud Storage takes so many requests of your project in a minute, and these were more; wait"),
        (NO_BILLING, "the project has no billing account that pays"),
        ("HTTPError 401: Invalid Credentials", "your login is not valid any more; gcloud auth login"),
        (
            "HTTPError 403: alice@example.com does not have storage.buckets.create access to the Google Cloud project.",
            "your account may not make buckets in this project; an owner has to give it the role Storage Admin",
        ),
        (bucket_gcloud.TAKEN, "somebody else has a bucket gs://mine, and names are shared by all the world"),
        ("HTTPError 500: Backend Error", "ended with 1: (gcloud.storage.buckets.create) HTTPError 500: Backend Error"),
    ],
)
def test_what_gcloud_refuses_is_explained(
    cloud: Cloud, fault: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.change(faults={"storage buckets create": fault})
    assert main(["create"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    cloud.change(faults={})
    assert main(["create"]) == 0  # the same command again


@pytest.mark.parametrize("arguments", [["create"], ["check"], ["size"]])
def test_somebody_elses_bucket(cloud: Cloud, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cloud.change(others=["mine"])
    assert main(arguments) == 2
    assert "your account may not use gs://mine, which may be somebody else's" in capsys.readouterr().err


def test_without_gcloud_or_a_bucket_in_the_settings(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["create"]) == 2
    assert "gcloud is not installed" in capsys.readouterr().err
    (tmp_path / "gcloud").write_text("")
    assert main(["create"]) == 2  # a look …
    assert "gcloud does not start (Permission denied); https://cloud.google.com/sdk" in capsys.readouterr().err
    (tmp_path / "gcloud").write_bytes(b"\x7fELF")
    (tmp_path / "gcloud").chmod(0o755)
    with pytest.raises(CloudError, match=r"gcloud does not start \(Exec format error\)"):  # … and a change
        Gcloud(load_settings(), dry_run=False).change("storage", "buckets", "create", "gs://mine")
    capsys.readouterr()
    cloud.settings.write_text("ZONE=us-central1-a\n")
    assert main(["size"]) == 2
    assert "BUCKET is empty" in capsys.readouterr().err


def test_the_size_by_folder(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    objects = {"pages/a/1": 1500, "pages/b": 24, "runs/x/checkpoints/3": 1 << 20, "note": 7}
    made.change(objects={f"gs://mine/{name}": "x" * n for name, n in objects.items()})
    capsys.readouterr()
    assert main(["size"]) == 0
    rows = [line.split(None, 2) for line in capsys.readouterr().out.splitlines()]
    assert rows[1:-1] == [
        ["(no", "folder)", "1       7 bytes"],
        ["pages/", "2", "1.5 KiB"],
        ["runs/", "1", "1.0 MiB"],
        ["all", "4", "1.0 MiB"],
    ]
    made.change(buckets={})
    assert main(["size"]) == 2
    assert "gs://mine does not exist" in capsys.readouterr().err


def test_prices() -> None:
    """By hand: a TiB is 1,024 GiB."""
    assert monthly_cost(1 << 40, "US-CENTRAL1").startswith("about $20.48 a month")
    assert monthly_cost(1 << 40, "us").startswith("about $26.62 a month")
    assert "lacks us-central2" in monthly_cost(1, "US-CENTRAL2")
    assert [as_size(n) for n in (1023, 1536, 5 << 30, 1 << 50)] == ["1,023 bytes", "1.5 KiB", "5.0 GiB", "1,024.0 TiB"]


DRY = (
    ["create"],
    ["create", "--expire-days", "7", "--expire-prefix", "runs/old/"],
    ["check"],
    ["size"],
    ["worker-logs", "off"],
    ["worker-logs", "on"],
)


@pytest.mark.parametrize("arguments", DRY, ids=" ".join)
def test_a_dry_run_prints_commands_and_needs_no_gcloud(cloud: Cloud, tmp_path: Path, arguments: list[str]) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "cloud" / "bucket"), *arguments, "--dry-run"],
        env={"PATH": str(tmp_path), "JAXGPT_SETTINGS": str(cloud.settings)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - begun < 2
    assert "$ gcloud " in done.stdout
    assert "from now on" not in done.stdout
    for file in re.findall(r"--lifecycle-file=(\S+)", done.stdout):
        (rules,) = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith(f"{file}: ")]
        assert json.loads(rules)["rule"][0] == ABORT
    assert not cloud.state.exists()


def test_a_full_disk_is_a_sentence(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, *args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["create"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("lifecycle.json: No space left on device; mend that, and give the same command again")


def _pages(folder: Path) -> Path:
    from bucket_server import write_random_pages

    return write_random_pages(folder / "my_pages", rows=(11, 7))


def test_an_upload_that_can_not_be(cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", str(tmp_path)]) == 2
    assert f"{tmp_path} has no manifest.json" in capsys.readouterr().err
    pages = _pages(tmp_path)
    assert main(["upload", str(pages)]) == 2
    assert "gs://mine does not exist; cloud/bucket create" in capsys.readouterr().err
    assert main(["create", "--region", "europe-west4", "--force"]) == 0
    assert main(["upload", str(pages)]) == 2
    assert "costs $0.02 per GiB" in capsys.readouterr().err
    for name in ("/x", "../../y", "gs://other/z", "a/../../y", "a//b", "/"):
        assert main(["upload", str(pages), "--name", name, "--dry-run"]) == 2
        assert f"--name is {name!r}; give a folder in gs://mine, as in corpora/my_pages" in capsys.readouterr().err
    assert main(["upload", str(pages), "--name", "corpora/x/", "--dry-run"]) == 0
    assert f"-m data_prep.upload_pages {pages} gs://mine/corpora/x\n" in capsys.readouterr().out
    assert main(["upload", str(pages), "--dry-run"]) == 0
    assert f"-m data_prep.upload_pages {pages} gs://mine/my_pages" in capsys.readouterr().out


@pytest.mark.slow
def test_pages_go_to_the_bucket_and_what_arrived_is_not_sent_again(
    made: Cloud, server: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The bucket's region is gcloud's stand-in's, its objects are the emulator's."""
    from bucket_server import BUCKET, content_of

    server.empty()
    made.settings.write_text(SETTINGS.replace("gs://mine", f"gs://{BUCKET}"))
    made.change(buckets={BUCKET: made.bucket})
    pages = _pages(tmp_path)
    server.fault = lambda method, path: 403 if method == "POST" and len(server.begun) > 1 else None
    assert main(["upload", str(pages)]) == 2
    arrived = len(server.objects())
    server.heal()
    assert main(["upload", str(pages)]) == 0
    out = capfd.readouterr().out
    assert 0 < arrived < len(content_of(pages))
    assert f"; {len(content_of(pages)) - arrived} were sent now" in out
    assert f"train on it with --data.path gs://{BUCKET}/my_pages\n" in out
    assert server.objects() == {f"my_pages/{name}": text for name, text in content_of(pages).items()}
