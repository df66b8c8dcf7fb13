"""The world of the tests of cloud/bucket: settings, and the stand-in of bucket_gcloud.py as gcloud on PATH."""

import os
import sys
from pathlib import Path
from typing import Any

import bucket_gcloud
import pytest

from cloud.bucket_command import main

SETTINGS = "ZONE=us-central1-a\nPROJECT=my-project\nBUCKET=gs://mine\n"
_GCLOUD = f"#!{sys.executable} -IS\n{Path(bucket_gcloud.__file__).read_text()}"
_made: list[str] = []


class Cloud:
    """What the stand-in knows, beginning with nothing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.settings, self.state = folder / "settings.env", folder / "world.json"
        self.settings.write_text(SETTINGS)
        self.program = folder / "bin" / "gcloud"
        self.program.parent.mkdir()
        self.program.write_text(_GCLOUD)
        self.program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("BUCKET_GCLOUD", str(self.state))
        monkeypatch.setenv("JAXGPT_SETTINGS", str(self.settings))

    def make(self) -> "Cloud":
        """With the bucket that `create` makes, which is the same each time."""
        if not _made:
            assert main(["create"]) == 0
            _made.append(self.state.read_text())
        self.state.write_text(_made[0])
        return self

    def change(self, **values: Any) -> None:
        bucket_gcloud.save(self.state, {**bucket_gcloud.load(self.state), **values})

    def change_bucket(self, **values: Any) -> None:
        self.change(buckets={"mine": {**self.bucket, **values}})

    @property
    def bucket(self) -> dict[str, Any]:
        return self["buckets"]["mine"]

    def __getitem__(self, name: str) -> Any:
        return bucket_gcloud.load(self.state)[name]

    def calls(self, beginning: str = "") -> list[str]:
        return [call for call in self["calls"] if call.startswith(beginning)]
