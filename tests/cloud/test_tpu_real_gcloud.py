"""cloud/tpu with the real gcloud, where it is installed: it knows the commands, and we understand that nobody is in."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cloud.tpu_command import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed"),
]
ASKED = ("tpu-vm create", "tpu-vm describe", "tpu-vm ssh", "queued-resources create", "queued-resources delete")


@pytest.fixture(autouse=True)
def _settings(logged_out: Path) -> None:
    logged_out.write_text("ZONE=us-central1-a\nPROJECT=my-project\nMAX_HOURS=1\nINTERNAL_IPS=yes\nNETWORK=n\n")


def test_it_knows_the_commands_and_misses_but_the_login(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for purchase in ("spot", "queued-spot"):
        monkeypatch.setenv("JAXGPT_PURCHASE", purchase)
        for command in (["create"], ["setup"], ["logs"], ["delete"]):
            assert main([*command, "--dry-run"]) == 0
    lines = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    for words in ASKED:
        line = next(line for line in lines if words in line)
        command = shlex.split(line.partition(" < ")[0])
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode != 0, line
        assert "gcloud auth login" in done.stderr, done.stderr


def test_nobody_being_logged_in_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert "error: nobody is logged in; gcloud auth login" in capsys.readouterr().err
