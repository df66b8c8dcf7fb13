"""cloud/tpu stop, and how a run that is done deletes its slice."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gcloud_stand_in import World
from tpu_calls import CONFIG, rows, tpu, wait_for_exit


def test_a_number_of_a_process_that_is_gone_is_not_stopped(ready: World) -> None:
    sleeper = subprocess.Popen(["sleep", "60"], start_new_session=True)
    home = ready.home(0) / "jaxgpt"
    for code in (0, None):
        numbers = {"group": sleeper.pid, "training": sleeper.pid, "since": 0}
        state = {"id": "a", "run": "x", **numbers, "exit": code, "deletes": code == 0}
        (home / "state.json").write_text(json.dumps(state))
        if code is None:
            assert tpu("setup") == 0  # which says that it is over
        with (home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tpu("stop")
    assert sleeper.poll() is None
    sleeper.kill()


def test_a_host_that_could_not_be_stopped_is_an_error(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("train", "--config", CONFIG) == 0
    ready.cut(1)
    assert tpu("stop") == 1
    assert [row[1] for row in rows(capsys)] == ["yes", "no", "yes", "yes"]
    assert ready.host_state(1)["exit"] is None
    ready.cut()
    assert tpu("stop") == 0


def test_what_is_dead_when_it_is_stopped_stays_stopped(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("train", "--config", CONFIG) == 0
    ready.kill(1)
    ready.finish(1, workers=1)
    assert tpu("stop") == 0
    assert [row[3] for row in rows(capsys)] == ["stopped"] * 4


def lives(number: int) -> bool:
    try:
        return bool(Path(f"/proc/{number}/cmdline").read_bytes())  # what is dead and not yet buried has none
    except FileNotFoundError:
        return False


def test_a_deletion_that_is_about_to_come_is_shown_and_called_off(
    ready: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tpu("train", "--config", CONFIG, "--delete-when-done") == 0
    ready.finish(workers=4)
    capsys.readouterr()
    assert tpu("status") == 0
    found = rows(capsys)
    assert [row[3] for row in found] == ["done"] * 4
    assert found[0][-1] == "the slice is about to be deleted; cloud/tpu stop calls that off"
    assert tpu("train", "--config", CONFIG) == 2
    assert "the run jaxgpt is done, and its slice about to be deleted; cloud/tpu stop" in capsys.readouterr().err
    supervisors = [ready.host_state(worker)["group"] for worker in range(4)]
    assert tpu("stop") == 0
    assert [row[-1] for row in rows(capsys)] == ["host 0 of 4: here"] * 4
    until = time.monotonic() + 10
    while (left := [number for number in supervisors if lives(number)]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left
    assert tpu("train", "--config", CONFIG) == 0


def test_looking_hinders_nobody(ready: World) -> None:
    host = [sys.executable, str(ready.home(0) / "jaxgpt" / "src" / "cloud" / "host.py")]
    environment = {**os.environ, "HOME": str(ready.home(0))}
    lock = ready.home(0) / "jaxgpt" / "lock"
    with lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # as somebody who looks
        done = subprocess.run([*host, "status"], env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout.removeprefix("jaxgpt-host "))["state"] == "ready"
    looks = lock.open("a")
    fcntl.flock(looks, fcntl.LOCK_SH)
    request = {"id": "a", "version": (ready.home(0) / "jaxgpt" / "version").read_text(), "run": "x", "config": ""}
    request |= {"arguments": [], "environment": {}, "delete_when_done": False}
    start = subprocess.Popen(
        [*host, "start"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert start.stdin is not None
    start.stdin.write(json.dumps(request))
    start.stdin.close()
    time.sleep(0.5)
    looks.close()
    assert start.stdout is not None
    assert json.loads(start.stdout.read().removeprefix("jaxgpt-host "))["state"] == "running"
    start.wait()


def test_a_run_that_was_stopped_can_be_done_all_the_same(ready: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu("train", "--config", CONFIG) == 0
    ready.finish(workers=4)
    wait_for_exit(ready, 0, 1, 2, 3)
    assert tpu("stop") == 0
    assert [row[3] for row in rows(capsys)] == ["done"] * 4
