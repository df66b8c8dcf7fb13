"""Which Python runs what Python's own library is not enough for."""

import sys
from pathlib import Path

import pytest

from cloud import interpreter
from cloud.interpreter import python_that_has


def test_an_environment_counts_once_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    assert python_that_has("json") == sys.executable
    assert python_that_has("no_such_package") is None
    (tmp_path / ".venv" / "installed").touch()
    assert python_that_has("no_such_package") == str(python)
