"""Folders of the user that hold what can be made again."""

import os
from pathlib import Path

import pytest

from jaxgpt import caches
from jaxgpt.caches import cache_folder, keep_compiled

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back
    monkeypatch.delenv(VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "home"


def test_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(None) == home / ".cache" / "jaxgpt"
    assert cache_folder("~/big") == home / "big"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_folder(None) == home / "xdg" / "jaxgpt"


def test_compiled_programs_that_were_not_read_for_longest_go_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / ".cache" / "jaxgpt" / "compiled"
    folder.mkdir(parents=True)
    (folder / "jax_keeps_more_here").mkdir()
    for name, read in (("old", 3), ("oldest", 1), ("new", 9), ("older", 2)):
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (read, 0))
    monkeypatch.setattr(caches, "_MOST_BYTES", 25)
    keep_compiled()
    assert os.environ[VARIABLE] == str(folder)
    assert {path.name for path in folder.iterdir()} == {"old", "new", "jax_keeps_more_here"}


def test_a_folder_of_the_user_s_own_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "gs://mine/compiled")
    keep_compiled()
    assert os.environ[VARIABLE] == "gs://mine/compiled"
    assert not home.exists()


def test_without_a_folder_nothing_is_kept(home: Path) -> None:
    home.write_text("a file")
    keep_compiled()
    assert VARIABLE not in os.environ
