"""cloud/bucket with the real gcloud, where it is installed: it knows the commands, and we understand its answers."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloud.bucket_check import check
from cloud.bucket_command import main
from cloud.buckets import Bucket
from cloud.gcloud import Gcloud
from cloud.settings import load_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed"),
]
COMMANDS = (["create"], ["check"], ["size"], ["worker-logs", "off"], ["worker-logs", "on"])
ASKED = ("buckets create", "storage cp", "buckets get-iam-policy", "objects list", "sinks update")  # a second for each


@pytest.fixture
def settings(logged_out: Path) -> Path:
    logged_out.write_text("ZONE=us-central1-a\nPROJECT=my-project\nBUCKET=gs://mine-as-well\n")
    return logged_out


def test_it_knows_the_commands_and_misses_but_the_login(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        main([*command, "--dry-run"])
    lines = {line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")}
    assert len(lines) == 13
    for line in sorted(line for line in lines if any(words in line for words in ASKED)):
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode != 0, line
        missing_file = "storage cp" in line and "/probe" in done.stderr  # that of the dry run is gone
        missing_rules = "buckets create" in line and "/lifecycle.json" in done.stderr
        assert missing_file or missing_rules or "gcloud auth login" in done.stderr, done.stderr


def test_a_bucket_of_the_emulator(
    settings: Path, server: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It forgets the options of a new bucket, says that it is in the US, and can't change it."""
    from bucket_server import BUCKET

    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", f"{server.url}/storage/v1/")
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
    assert main(["create"]) == 0  # it asked before, and understood that there is none
    assert "Creating gs://mine-as-well/..." in capfd.readouterr().err
    server.storage.delete_bucket("mine-as-well")

    settings.write_text(f"ZONE=us-central1-a\nPROJECT=p\nBUCKET=gs://{BUCKET}\n")
    server.empty()
    server.put("pages/x/manifest.json", b"x" * 1536)
    server.put("pages/note", b"xyz")
    assert main(["size"]) == 0
    out = capfd.readouterr().out
    assert [row.split() for row in out.splitlines()[1:3]] == [["pages/", "2", "1.5", "KiB"], ["all", "2", "1.5", "KiB"]]
    assert "it costs about $0.00 a month (standard class, $0.026 per GiB" in out


def test_the_probe_of_the_rights(settings: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gcloud says when it reads and deletes; the emulator does not understand how it writes."""
    from bucket_server import BUCKET

    def text(self: Gcloud, *arguments: str, **options: Any) -> str | None:
        if arguments[:2] != ("storage", "cp"):
            return really(self, *arguments, **options)
        server.put(arguments[3].removeprefix(f"gs://{BUCKET}/"), Path(arguments[2]).read_bytes())
        return ""

    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", f"{server.url}/storage/v1/")
    monkeypatch.setenv("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
    settings.write_text(f"ZONE=us-central1-a\nPROJECT=p\nBUCKET=gs://{BUCKET}\n")
    server.empty()
    really = Gcloud.text
    monkeypatch.setattr(Gcloud, "text", text)
    gcloud = Gcloud(load_settings(), dry_run=False)
    rights = next(finding for finding in check(gcloud, Bucket(gcloud)) if finding.what == "rights")
    assert rights == ("ok", "rights", "you may write, read and delete")
    assert [method for method, path in server.requests if "probe" in path].count("DELETE") == 1
    assert server.objects() == {}
