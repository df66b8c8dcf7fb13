"""cloud/bucket check: what it finds, each with the way out."""

from pathlib import Path
from typing import Any

import pytest
from bucket_world import SETTINGS, Cloud

from cloud.bucket_command import main

HOSTS = "123456-compute@developer.gserviceaccount.com"


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return Cloud(tmp_path, monkeypatch)


@pytest.fixture
def made(cloud: Cloud) -> Cloud:
    return cloud.make()


def _lines(out: str) -> dict[str, str]:
    """What `check` printed, by the words before the colon; the state first."""
    return {
        line.split(None, 1)[1].partition(":")[0]: f"{line.split()[0]} {line.partition(': ')[2]}"
        for line in out.splitlines()
    }


def _binding(role: str, member: str = f"serviceAccount:{HOSTS}", **more: Any) -> dict[str, Any]:
    return {"bindings": [{"members": [member], "role": role, **more}]}


def test_a_bucket_that_is_fit(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    made.change(project_policy=_binding("roles/editor"))
    assert main(["check"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok    bucket: gs://mine, standard",
        "ok    region: us-central1, where the zone is",
        "ok    rights: you may write, read and delete",
        "ok    life cycle: broken uploads are removed",
        "ok    soft delete: off",
        "ok    access: not public, and the same for all objects",
        f"ok    hosts: {HOSTS} may write",
        "ok    upload: cloud/bucket upload has a login",
    ]
    assert made["objects"] == {}


def test_a_bucket_that_is_not_there(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 1
    assert capsys.readouterr().out == "fail  bucket: gs://mine does not exist; cloud/bucket create makes it\n"


@pytest.mark.parametrize(
    ("changes", "what", "said", "code"),
    [
        ({"location": "EUROPE-WEST4"}, "region", "fail gs://mine is in europe-west4 and the zone", 1),
        ({"location": "US"}, "region", "warn gs://mine is in us and the zone", 0),
        ({"lifecycle_config": {}}, "life cycle", "warn keeps broken uploads, which cost; cloud/bucket create", 0),
        (
            {"lifecycle_config": {"rule": [{"action": {"type": "Delete"}, "condition": {"age": 9}}]}},
            "life cycle",
            'warn deletes pages and checkpoints, too, where [{"age": 9}]; if that is not meant, gcloud storage buckets '
            "update gs://mine --clear-lifecycle, and cloud/bucket create",
            0,
        ),
        (
            {"soft_delete_policy": {"retentionDurationSeconds": "604800"}},
            "soft delete",
            "warn what is deleted, as old checkpoints are, is paid for 7 more days",
            0,
        ),
        ({"public_access_prevention": "inherited"}, "access", "warn it or parts of it could be made public", 0),
    ],
)
def test_what_is_not_as_it_should_be(
    made: Cloud, changes: dict[str, Any], what: str, said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made.change(project_policy=_binding("roles/editor"))
    made.change_bucket(**changes)
    assert main(["check"]) == code
    lines = _lines(capsys.readouterr().out)
    assert lines[what].startswith(said)
    assert [name for name, line in lines.items() if not line.startswith("ok")] == [what]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"age": 9, "matchesPrefix": ["tmp/", "old/"]}, "deletes tmp/, old/ after 9 days"),
        ({"matchesSuffix": [".tmp"]}, 'deletes where {"matchesSuffix": [".tmp"]}'),
        ({"matchesPrefix": ["tmp/"]}, 'deletes where {"matchesPrefix": ["tmp/"]}'),
        ({"age": 9, "isLive": False}, 'deletes where {"age": 9, "isLive": false}'),
        ({"numNewerVersions": 3}, 'deletes where {"numNewerVersions": 3}'),
    ],
)
def test_rules_that_spare_pages(
    made: Cloud, condition: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    abort = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 14}}
    made.change_bucket(lifecycle_config={"rule": [{"action": {"type": "Delete"}, "condition": condition}, abort]})
    assert main(["check"]) == 0
    assert _lines(capsys.readouterr().out)["life cycle"] == f"ok broken uploads are removed; {said}"


def test_a_bucket_without_the_login_that_uploads(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "ok upload" in " ".join(out.split())
    assert "ya29" not in out
    made.change(token="")
    assert main(["check"]) == 0
    assert _lines(capsys.readouterr().out)["upload"] == (
        "warn cloud/bucket upload has a login of its own, and there is none; gcloud auth application-default login"
    )


@pytest.mark.parametrize(("command", "doing"), [("cp", "write"), ("cat", "read"), ("rm", "delete")])
def test_rights_that_are_lacking(made: Cloud, command: str, doing: str, capsys: pytest.CaptureFixture[str]) -> None:
    right = {"cp": "create", "cat": "get", "rm": "delete"}[command]
    made.change(
        faults={
            f"storage {command}": f"HTTPError 403: alice@example.com does not have storage.objects.{right} access to "
            "the Google Cloud Storage object."
        }
    )
    assert main(["check"]) == 1
    line = _lines(capsys.readouterr().out)["rights"]
    assert line.startswith(f"fail you can't {doing}: your account may not use gs://mine")
    assert ("is left there" in line) == (len(made["objects"]) == 1) == (command == "rm")


@pytest.mark.parametrize(
    ("of_bucket", "of_project", "state"),
    [
        (None, _binding("roles/editor"), "ok"),  # by what a bucket gives its project's editors
        (_binding("roles/storage.objectUser"), _binding("roles/viewer"), "ok"),
        (_binding("roles/viewer"), _binding("roles/storage.admin"), "ok"),
        (_binding("roles/viewer"), _binding("roles/editor"), "warn"),  # editors were left out of the bucket
        (_binding("roles/storage.objectViewer"), _binding("roles/viewer"), "warn"),
        (_binding("roles/storage.objectUser", condition={"title": "until May"}), _binding("roles/viewer"), "warn"),
        (_binding("roles/storage.objectUser", "serviceAccount:other@x"), _binding("roles/viewer"), "warn"),
    ],
)
def test_the_account_of_the_hosts(
    made: Cloud,
    of_bucket: dict[str, Any] | None,
    of_project: dict[str, Any],
    state: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made.change(project_policy=of_project)
    if of_bucket:
        made.change_bucket(policy=of_bucket)
    assert main(["check"]) == 0
    line = _lines(capsys.readouterr().out)["hosts"]
    assert line.startswith(f"{state} {HOSTS}")
    assert ("--role=roles/storage.objectUser" in line) == (state == "warn")


def test_a_probe_that_comes_back_as_something_else(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cat = made.program.read_text()
    made.program.write_text(cat.replace('return world["objects"][words[0]] +', 'return "x" +'))
    assert main(["check"]) == 1
    assert "and read as 'x'; try again" in _lines(capsys.readouterr().out)["rights"]
    assert made["objects"] == {}


def test_a_project_that_is_not_there(made: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    made.settings.write_text(SETTINGS.replace("my-project", "none-such"))
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "can't be seen: there is no project none-such; put another PROJECT=…" in _lines(out)["hosts"]
    assert "None-compute" not in out


def test_the_account_of_the_settings_and_a_policy_that_is_hidden(
    made: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    made.settings.write_text(SETTINGS + "SERVICE_ACCOUNT=own@my-project.iam.gserviceaccount.com\n")
    main(["check"])
    assert "warn own@my-project.iam" in _lines(capsys.readouterr().out)["hosts"]
    made.change(faults={"projects get-iam-policy": "[alice@example.com] does not have permission to access projects"})
    assert main(["check"]) == 0
    assert "warn whether the TPU's hosts may use it can't be seen" in _lines(capsys.readouterr().out)["hosts"]
