"""The hosts of a slice, called by ssh all at once; each answers, refuses or stays silent for itself."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud.gcloud import Gcloud, missing
from cloud.host import MARK

CALL = "python3 ~/jaxgpt/src/cloud/host.py"
_AT_ONCE = 32  # gcloud takes some 80 MB for each
# A slice that was made anew has other keys under the same name, which is no attack.
_SSH = ("--strict-host-key-checking=no", "--ssh-flag=-oConnectTimeout=15", "--ssh-flag=-oServerAliveInterval=15")
# How ssh, and gcloud for it, say that there was no connection.
_UNREACHED = re.compile(r"return code \[255\]|ssh: connect|Connection (timed out|refused|closed|reset)|Could not SSH")
# Lines that say nothing of the host.
_OF_GCLOUD = re.compile(r"\[/usr/bin/ssh\] exited|^SSH: Attempting|^Using ssh batch size")
_KEY = Path(".ssh") / "google_compute_engine"  # in the home, made by gcloud's first ssh
_KEY_SECONDS = 300.0


@dataclass(frozen=True)
class Answer:
    """values: what host.py said; trouble: why it did not, "" where it did; reached: whether anything came back."""

    worker: int
    values: dict[str, Any]
    trouble: str
    reached: bool


class Hosts:
    """Numbered from 0, as many as a slice of the settings' type has."""

    def __init__(self, gcloud: Gcloud):
        self._gcloud, self._settings = gcloud, gcloud.settings
        self.count = gcloud.settings.slice.n_hosts

    def __str__(self) -> str:
        return "1 host" if self.count == 1 else f"{self.count} hosts"

    def command(self, worker: int | str, command: str | None) -> list[str]:
        """gcloud's, by which `command` runs on a host, or a shell where it is None."""
        own = self._settings
        inside = ["--internal-ip"] * (own.internal_ips == "yes")
        what = [] if command is None else [f"--command={command}"]
        where = (own.name, f"--zone={own.zone}", f"--worker={worker}")
        return self._gcloud.command("compute", "tpus", "tpu-vm", "ssh", *where, *inside, *_SSH, *what)

    def call(
        self,
        command: str,
        seconds: float,
        *,
        sent: bytes | None = None,
        shown: str = "",
        workers: Iterable[int] | None = None,
        say: Callable[[Answer], None] | None = None,
    ) -> list[Answer]:
        """What each of the workers, by default all, answers within so many seconds, in their order.

        sent: through the command's input; shown: how a dry run writes that; say: is told of each answer when it comes.
        """
        chosen = list(range(self.count)) if workers is None else list(workers)
        running: set[subprocess.Popen[bytes]] = set()

        def one(worker: int) -> Answer:
            answer = _ask(worker, self.command(worker, command), sent, seconds, running)
            if say:
                say(answer)
            return answer

        if self._gcloud.dry_run:
            for worker in chosen:
                print(f"$ {shlex.join(self.command(worker, command))}{shown}", flush=True)
            return []
        if not (Path.home() / _KEY).is_file():  # which several must not make at once, and which takes its time
            _ask(chosen[0], self.command(chosen[0], "true"), None, _KEY_SECONDS, running)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            try:
                return list(threads.map(one, chosen))
            except KeyboardInterrupt:  # whoever asks for the end waits for no host
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    _end(process)
                raise

    def status(self, seconds: float = 45) -> list[Answer]:
        """See host.py's `status`; a host without it is reached and not set up."""
        untouched = f"{MARK}{json.dumps({'state': 'not set up'})}"
        there = "[ -f ~/jaxgpt/src/cloud/host.py ]"
        return self.call(f"if {there}; then {CALL} status; else echo {shlex.quote(untouched)}; fi", seconds)


def _ask(
    worker: int,
    command: Sequence[str],
    sent: bytes | None,
    seconds: float,
    running: set[subprocess.Popen[bytes]],
) -> Answer:
    """running: holds the process while it runs."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if sent is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that it can be ended with the ssh that it starts
        )
    except FileNotFoundError:
        raise missing() from None
    running.add(process)
    try:
        out, error = process.communicate(sent, timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        _, error = process.communicate()  # gcloud tries again and again, and says why only here
        why = _last_telling(error.decode("utf-8", "replace"))
        return Answer(worker, {}, f"no answer in {seconds:.0f} s" + (f": {why}" if why else ""), reached=False)
    except KeyboardInterrupt:  # of the one call that is made in the main thread
        _end(process)
        raise
    finally:
        running.discard(process)
    heard, said = out.decode("utf-8", "replace"), error.decode("utf-8", "replace")
    told = [line.removeprefix(MARK) for line in heard.splitlines() if line.startswith(MARK)]
    if told:
        try:
            values = json.loads(told[-1])
        except ValueError:  # the connection broke in the middle
            return Answer(worker, {}, f"its answer is cut off: {told[-1]}", reached=True)
        return Answer(worker, values, values.get("error", ""), reached=True)
    why = _last_telling(f"{heard}\n{said}") or "nothing was said"
    return Answer(worker, {}, f"exit code {process.returncode}: {why}", reached=not _UNREACHED.search(said))


def _last_telling(text: str) -> str:
    telling = [line.strip() for line in text.splitlines() if line.strip() and not _OF_GCLOUD.search(line)]
    return telling[-1] if telling else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """With the ssh that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
