#!/usr/bin/env python3
"""What runs on a host of a slice: installs, starts, stops and tells. It stands alone, for whatever Python 3 is there.

`cloud/tpu` calls it by ssh. What is to be done comes as JSON through its input, so that no secret is on a command line,
and what it has to say is one line that begins with MARK, as JSON. All that it keeps is in ~/jaxgpt.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

MARK = "jaxgpt-host "
HOME = Path.home() / "jaxgpt"
SOURCE, VENV = HOME / "src", HOME / "venv"
LOCK, STATE, VERSION = HOME / "lock", HOME / "state.json", HOME / "version"
STOPPED = HOME / "stopped"  # there where somebody asked for the end of what was started last
_TAIL = 1 << 16  # bytes of a log's end that are looked through
_STEP = re.compile(r"\| *(\d+)/(\d+) \[")  # of a progress bar
_LINGER = 180.0  # seconds
_ENDED = "the training ended with exit code"
_REFUSED = 3
_HOUR = 3600.0
_LOCK_SECONDS = 2.0  # that a lock is asked for: whoever only looks at it holds it for a moment


def main(arguments: list[str]) -> None:
    commands: dict[str, Callable[..., None]] = {
        "install": install,
        "start": start,
        "supervise": supervise,
        "stop": stop,
        "status": status,
        "logs": logs,
    }
    commands[arguments[0]](*arguments[1:])


def install(version: str) -> None:
    """Makes the tree that this file is of the one that runs, with its environment; refused under a training."""
    with _lock() as lock:
        if lock is None:
            _refuse(_who_runs())
        shutil.rmtree(SOURCE, ignore_errors=True)
        Path(__file__).resolve().parents[1].rename(SOURCE)
        for left in HOME.glob(SOURCE.name + ".*"):
            if time.time() - left.stat().st_mtime > _HOUR:  # of a call that was killed, and not one that goes on
                shutil.rmtree(left, ignore_errors=True)
        state = _state()
        if state and state["exit"] is None:  # it was killed, and its number may be another's now
            _write(STATE, json.dumps({**state, "exit": -signal.SIGKILL}))
        VERSION.unlink(missing_ok=True)
        command = ["bash", str(SOURCE / "cloud" / "install.sh"), "tpu", str(VENV)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            lines = done.stdout.strip().splitlines() or ["it did not say why"]
            _refuse(f"cloud/install.sh ended with {done.returncode}: {lines[-1]}")
        VERSION.write_text(version)
    status()


def start() -> None:
    """Starts a training that outlives this call.

    Input: id, version (that is to be installed), run, config (the file's text), arguments, environment,
    delete_when_done. A call that comes twice, with the same id, starts one.
    """
    given = sys.stdin.read()
    if not given:
        _refuse("the connection broke before it was said what to start; give the same command again")
    request = json.loads(given)
    if not VERSION.is_file():
        _refuse("nothing is installed; cloud/tpu setup does it")
    if (installed := VERSION.read_text()) != request["version"]:
        _refuse(f"{installed} is installed, and {request['version']} is to run; cloud/tpu setup does it")
    with _lock() as lock:
        if lock is None:
            if (state := _state()) and state["id"] == request["id"]:
                return status()
            _refuse(_who_runs())
        log = _log(request["run"])
        log.parent.mkdir(exist_ok=True)
        STATE.unlink(missing_ok=True)
        STOPPED.unlink(missing_ok=True)
        with log.open("ab") as output:
            supervisor = subprocess.Popen(
                [sys.executable, __file__, "supervise"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],  # the lock is held as long as the supervisor or the training lives
            )
        assert supervisor.stdin is not None
        supervisor.stdin.write(json.dumps({**request, "lock": lock.fileno()}).encode())
        supervisor.stdin.close()
        while supervisor.poll() is None and not STATE.is_file():
            time.sleep(0.05)
    if not STATE.is_file():
        _refuse(f"the training did not start: {(_last_lines(request['run']) or ['nobody says why'])[-1]}")
    return status()


def supervise() -> None:
    """The training's parent: keeps how it ended, and deletes the slice behind it where that was asked for."""
    request = json.load(sys.stdin)
    run, config = request["run"], HOME / "configs" / f"{request['run']}.yaml"
    config.parent.mkdir(exist_ok=True)
    _write(config, request["config"])
    # Paths from HOME: hosts whose options differ do not train together.
    command = [str(VENV / "bin" / "jaxgpt"), "train", "--config", str(config.relative_to(HOME))]
    command += ["--output", f"runs/{run}", *request["arguments"]]
    _note(" ".join(command))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **request["environment"]}
    training = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, cwd=HOME, env=environment, pass_fds=[request["lock"]]
    )
    state = {
        "id": request["id"],
        "run": run,
        "group": os.getpid(),
        "training": training.pid,
        "since": time.time(),
        "exit": None,
        "deletes": False,
    }
    _write(STATE, json.dumps(state))
    state["exit"] = training.wait()
    state["deletes"] = state["exit"] == 0 and request["delete_when_done"]
    _write(STATE, json.dumps(state))
    _note(f"{_ENDED} {state['exit']}")
    if state["deletes"]:
        time.sleep(_LINGER)  # so that who watches from afar sees the end before the slice is gone
        subprocess.run([sys.executable, str(SOURCE / "cloud" / "guard.py"), "now"], check=False)


def _note(line: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)


def stop(seconds: str, by: str, of: str) -> None:
    """The training may save first; what still lives after so many seconds is killed.

    by: `hand` for what a person wants to be over; of: id of the only training that is meant, or `any`. One that is done
    and about to delete its slice does not delete it.
    """
    state = _state()
    if state and by == "hand":
        STOPPED.touch()  # also where it is dead: nobody shall start it again
    if state and state["deletes"] and of in (state["id"], "any") and _is_supervisor(state["group"]):
        _signal(os.killpg, state["group"], signal.SIGKILL)
        _write(STATE, json.dumps({**state, "deletes": False}))
    if state and state["exit"] is None and of in (state["id"], "any") and _is_running():
        _signal(os.kill, state["training"], signal.SIGTERM)
        until = time.monotonic() + float(seconds)
        while _is_running() and time.monotonic() < until:
            time.sleep(0.2)
        while _is_running():
            _signal(os.killpg, state["group"], signal.SIGKILL)
            time.sleep(0.2)
    status()


def status() -> None:
    """state: not set up, ready, starting, running, done, stopped, failed (with its exit code) or killed."""
    kept, running = _state(), _is_running()
    said = {
        "version": VERSION.read_text() if VERSION.is_file() else None,
        "state": "ready" if VERSION.is_file() else "not set up",
        "disk_free": shutil.disk_usage(str(HOME if HOME.is_dir() else Path.home())).free,
    }
    if kept:
        broken = "stopped" if STOPPED.is_file() else "failed" if kept["exit"] is not None else "killed"
        lines = _last_lines(kept["run"])
        steps = [found for found in map(_STEP.search, lines) if found]
        told = [line for line in lines if not _STEP.search(line) and _ENDED not in line]
        said.update(
            run=kept["run"],
            since=kept["since"],
            exit=kept["exit"],
            state="done" if kept["exit"] == 0 else "running" if running and kept["exit"] is None else broken,
            step=int(steps[-1][1]) if steps else None,
            steps=int(steps[-1][2]) if steps else None,
            said=told[-1] if told else "",
        )
        if kept["deletes"] and running:
            said["said"] = "the slice is about to be deleted; cloud/tpu stop calls that off"
    elif running:
        said["state"] = "starting"
    _say(said)


def logs(n: str, follow: str) -> None:
    """The end of the log of the last training."""
    state = _state()
    if state is None:
        _refuse("nothing was started here")
    follows = ["-F"] if follow == "follow" else []
    os.execvp("tail", ["tail", "-n", n, *follows, str(_log(state["run"]))])


@contextmanager
def _lock() -> Iterator[IO[str] | None]:
    """The file that is locked while a training lives or is installed; None where somebody else has it."""
    HOME.mkdir(exist_ok=True)
    until = time.monotonic() + _LOCK_SECONDS
    with LOCK.open("a") as file:
        while not (taken := _locked(file, fcntl.LOCK_EX)) and time.monotonic() < until:
            time.sleep(0.02)
        yield file if taken else None


def _locked(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_running() -> bool:
    if not LOCK.is_file():
        return False
    with LOCK.open("a") as file:
        return not _locked(file, fcntl.LOCK_SH)  # which several may have at once


def _is_supervisor(number: int) -> bool:
    """Whether the process of this number is still what it was."""
    try:
        return b"supervise" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


def _state() -> dict[str, Any] | None:
    try:
        return json.loads(STATE.read_text())
    except FileNotFoundError:
        return None


def _who_runs() -> str:
    state = _state()
    if state is None:
        return "cloud/tpu setup or train is at work here already; wait for it"
    if state["deletes"]:
        return f"the run {state['run']} is done, and its slice about to be deleted; cloud/tpu stop calls that off"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(state["since"]))
    return f"the run {state['run']} is being trained here since {since}; cloud/tpu stop ends it"


def _log(run: str) -> Path:
    return HOME / "logs" / f"{run}.log"


def _last_lines(run: str) -> list[str]:
    """Of its log; a progress bar writes many lines over each other."""
    try:
        with _log(run).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in re.split("[\r\n]+", text) if line.strip()]


def _signal(send: Callable[[int, int], None], number: int, which: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        send(number, which)


def _write(path: Path, text: str) -> None:
    """Readable by its owner alone, and whole or not there."""
    new = path.with_name(path.name + ".new")
    with open(os.open(str(new), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.rename(path)


def _say(values: dict[str, Any]) -> None:
    print(MARK + json.dumps(values), flush=True)


def _refuse(why: str) -> NoReturn:
    _say({"error": why})
    sys.exit(_REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
