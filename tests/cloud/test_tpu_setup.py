"""cloud/tpu setup: the same code and environment on all hosts, or a sentence that says where not."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gcloud_stand_in import World
from tpu_calls import CONFIG, ROOT, rows, tpu

from cloud import hosts, source
from cloud.source import Code


def test_ctrl_c_waits_for_no_host(ready: World) -> None:
    with ready.state() as state:
        state["hanging"] = [2]
    command = [sys.executable, str(ROOT / "cloud" / "tpu"), "setup"]
    # Whatever runs the tests may ignore Ctrl-C itself, as shells have their background jobs do.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert "is installed" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert error.splitlines() == ["interrupted; what was begun stays, and the same command may be given again"]
    with ready.state() as state:
        state["hanging"] = []
    assert tpu("setup") == 0


def test_setup_names_all_hosts_that_do_not_answer(actors: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("create") == 0
    with actors.state() as state:
        state["unreachable"] = [1, 3]
    assert tpu("setup") == 2
    said = capsys.readouterr()
    assert re.search(r"host 1 was not set up: .*timed out; host 3 was not set up: .*timed out \(2 of 4 hosts", said.err)
    assert said.out.count("is installed") == 2
    with actors.state() as state:
        state["unreachable"] = []
    assert tpu("setup") == 0
    assert tpu("status") == 0
    assert [row[3] for row in rows(capsys)] == ["ready"] * 4


def test_setup_names_the_host_whose_disk_is_full(actors: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("create") == 0
    full = actors.folder / "bin" / "uv"
    works = full.read_text()
    full.write_text(
        works.replace("case", 'case "$HOME" in */2) echo "No space left on device" >&2; exit 1 ;; esac\ncase', 1)
    )
    assert tpu("setup") == 2
    captured = capsys.readouterr()
    assert re.search(r"host 2 was not set up: cloud/install.sh ended with 1: .*disk.* is full", captured.err)
    assert "(1 of 4 hosts; mend it" in captured.err
    assert captured.out.count("is installed") == 3
    full.write_text(works)
    assert tpu("setup") == 0


def test_a_setup_that_was_killed_is_not_taken_for_done(actors: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("create") == tpu("setup") == 0
    home = actors.home(0) / "jaxgpt"
    # As a kill within the next installation leaves it.
    (home / "version").unlink()
    half = home / "src.a1b2c3"
    half.mkdir()
    (half / "half").write_text("")
    os.utime(half, (0, 0))
    tpu("status")
    assert [row[3] for row in rows(capsys)] == ["not set up", "ready", "ready", "ready"]
    assert tpu("setup") == 0
    assert not half.exists()
    assert not (home / "src" / "half").exists()


def test_hosts_of_another_version_do_not_train_with_the_others(
    ready: World, capsys: pytest.CaptureFixture[str]
) -> None:
    version = (ready.home(1) / "jaxgpt" / "version").read_text()
    (ready.home(1) / "jaxgpt" / "version").write_text("0123456789ab")
    assert tpu("train", "--config", CONFIG) == 2
    assert f"host 1 did not start: 0123456789ab is installed, and {version} is to run" in capsys.readouterr().err
    assert tpu("setup") == tpu("train", "--config", CONFIG) == 0


def test_a_clone_that_changed_since_is_said(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = (ready.home(1) / "jaxgpt" / "version").read_text()
    monkeypatch.setattr("cloud.tpu_command.pack", lambda: Code("another", b""))
    assert tpu("train", "--config", CONFIG) == 0
    assert f"the hosts run {version}; the clone is another, which cloud/tpu setup would" in capsys.readouterr().out


def test_hosts_that_others_set_up_are_set_up_from_here_first(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another laptop"))
    assert tpu("train", "--config", CONFIG) == 2
    assert "the hosts of jaxgpt were not set up from here; cloud/tpu setup does it" in capsys.readouterr().err


def test_changes_are_part_of_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.check_output(["git", "-C", tmp_path, *identity, *arguments], text=True).strip()

    file = tmp_path / "code.py"
    file.write_text("1")
    git("init", "--quiet")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(source, "ROOT", tmp_path)
    commit = git("rev-parse", "HEAD")[:12]
    assert source.pack().version == commit
    versions = []
    for text in ("2", "3", "2"):
        file.write_text(text)
        versions.append(source.pack().version)
    assert versions[0] == versions[2] != versions[1]
    assert all(re.fullmatch(rf"{commit}\+[0-9a-f]{{8}}", version) for version in versions)


def test_gcloud_makes_its_key_once_and_alone(actors: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tpu("create") == 0
    monkeypatch.setattr(hosts, "_KEY", tmp_path / "key")
    assert tpu("status") == 0
    calls = actors.calls(" ssh ")
    assert ["--command=true " in call for call in calls] == [True, False, False, False, False]
    (tmp_path / "key").touch()
    assert tpu("status") == 0
    assert len(actors.calls(" ssh ")) == len(calls) + 4


def test_ctrl_c_ends_the_call_that_makes_the_key(
    actors: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = []
    end = hosts._end
    monkeypatch.setattr(hosts, "_end", lambda process: (ended.append(process.pid), end(process)))
    monkeypatch.setattr(hosts, "_KEY", tmp_path / "key")
    assert tpu("create") == 0
    with actors.state() as state:
        state["hanging"] = [0]
    before = signal.signal(signal.SIGALRM, lambda *rest: signal.default_int_handler(signal.SIGINT, None))
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)
        assert tpu("status") == 130
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(ended) == 1


def test_hosts_that_the_settings_do_not_know_of_are_not_left_out(
    ready: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tpu("train", "--config", CONFIG) == 0
    monkeypatch.setenv("JAXGPT_TYPE", "v4-16")
    for command in ("status", "stop", "setup"):
        assert tpu(command) == 2
        assert "jaxgpt is there, but as v3-32, and TYPE is v4-16" in capsys.readouterr().err
    assert all(ready.host_state(worker)["exit"] is None for worker in range(4))
