"""Keeps a copy of a run in a bucket, from a thread beside the training; a bucket that fails costs no step."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from jaxgpt.config import RUN_FILE, CheckpointConfig
from jaxgpt.data.manifest import TOKENIZER_FOLDER
from jaxgpt.train import dialogpt_logs, loggers
from jaxgpt.train.arrays import short
from jaxgpt.train.remote_run import (
    IDENTITY,
    Files,
    local_steps,
    look,
    read_text,
    remote_steps,
    remove_step,
    send_files,
    send_step,
)
from jaxgpt.train.retention import FOLDER, LATER_METRICS, METADATA, METRICS, WAY_BACK, Saved, parse_saved, to_keep
from jaxgpt.train.seal import Content, DamagedError, content_of

_PAUSE_S = 5.0  # after the first failure; twice as long after each further one
_LONGEST_PAUSE_S = 300.0
_PATIENCE_S = 600.0  # at the end of a run
_LOGS = (
    *(loggers.METRICS, loggers.EVENTS, loggers.SAMPLES, loggers.FOLDER),
    *(dialogpt_logs.TRAIN_LOG, dialogpt_logs.EVAL_LOG),
)


class Mirror:
    """Copies every sealed checkpoint of a run, the newest first, and removes what retention removed.

    say: is told once when the bucket fails and once when it is back.
    """

    def __init__(self, run: Path, url: str, cfg: CheckpointConfig, say: Callable[[str], None]):
        self._run, self._url, self._cfg, self._say = run, url.rstrip("/"), cfg, say
        self._news: SimpleQueue[tuple[int, set[int]]] = SimpleQueue()
        self._gone: set[int] = set()  # removed here, not there yet
        self._copied: set[int] = set()
        self._tidy = False  # whether what an earlier process left in the bucket has been looked through
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        if local_steps(run):  # an earlier process may not have sent them
            self._wake.set()
        self._thread.start()

    def changed(self, saved: int, removed: set[int]) -> None:
        """The step `saved` is on the disk, and `removed` no longer are."""
        self._news.put((saved, removed))
        self._wake.set()

    def close(self) -> None:
        """Sends what is left and the logs, which must be complete by now; waits for minutes at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_PATIENCE_S)
        if not self._finished:
            missing = [f"step {step}" for step in sorted(local_steps(self._run) - self._copied)]
            self._say(
                f"{self._url} lacks {', '.join([*missing, 'the logs'])}; all is in {self._run}, and the same command "
                "sends it when it is run again"
            )

    def _work(self) -> None:
        pause, failed = _PAUSE_S, False
        while not self._finished:
            self._wake.wait()
            self._wake.clear()
            closing = self._closing.is_set()  # asked before, so that the last pass sees everything
            try:
                self._pass(closing)
            except Exception as error:  # whatever it is, the training must not end by it
                if not failed:
                    self._say(
                        f"checkpoint.mirror {self._url} fails: {short(error)}; training goes on, checkpoints are saved "
                        f"in {self._run}, and it is tried again"
                    )
                failed = True
                if closing:
                    return
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                self._wake.set()
                continue
            if failed:
                self._say(f"checkpoint.mirror {self._url} works again and has all checkpoints")
            pause, failed, self._finished = _PAUSE_S, False, closing

    def _pass(self, closing: bool) -> None:
        while not self._news.empty():
            saved, removed = self._news.get()
            self._copied.discard(saved)
            self._gone |= removed
        there = look(self._run, self._url)
        send_files(self._run, self._url, self._contents(IDENTITY), there)
        send_files(self._run, self._url, self._contents(RUN_FILE, TOKENIZER_FOLDER), there)
        for step in sorted(local_steps(self._run) - self._copied, reverse=True):
            self._send(step, there)
        later = [f"{FOLDER}/{step}/{name}" for step in local_steps(self._run) for name in (LATER_METRICS, WAY_BACK)]
        with suppress(FileNotFoundError):  # retention was faster
            send_files(self._run, self._url, self._contents(*later), there)
        if not self._tidy:
            self._gone |= self._left_over(there)
            self._tidy = True
        for step in sorted(self._gone - local_steps(self._run)):
            remove_step(self._url, step)
            self._gone.discard(step)
        if closing:
            send_files(self._run, self._url, self._contents(*_LOGS), there)

    def _send(self, step: int, there: Files) -> None:
        folder = self._run / FOLDER / str(step)
        try:
            send_step(self._run, self._url, step, there)
        except (DamagedError, FileNotFoundError) as error:
            if not folder.exists():  # retention was faster
                return
            self._say(f"checkpoint {step} is not copied to {self._url}: {error}")
        self._copied.add(step)

    def _contents(self, *names: str) -> dict[str, Content]:
        """Of files and of all files in folders of the run, as far as there are any; hidden ones are left out."""
        paths = [self._run / name for name in names if (self._run / name).exists()]
        files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        found = {file.relative_to(self._run): file for file in sorted(files)}
        hidden = [name for name in found if any(part.startswith(".") for part in name.parts)]
        return {name.as_posix(): content_of(file) for name, file in found.items() if name not in hidden}

    def _left_over(self, there: Files) -> set[int]:
        """Steps in the bucket that an earlier process had to remove: not whole, or what no rule wants."""
        here, found = local_steps(self._run), remote_steps(there)
        old = {step for step, is_whole in found.items() if is_whole} - here

        def read_here(name: str) -> str:
            return (self._run / name).read_text(encoding="utf-8")

        def read_there(name: str) -> str:
            if name not in there:
                raise FileNotFoundError(name)
            return read_text(self._url, name)

        saved = []
        for step in old | here:
            # Retention was faster, or what is there can't be read: it stays until somebody has looked at it.
            with suppress(FileNotFoundError, ValueError, TypeError):
                saved.append(_saved(step, read_here if step in here else read_there))
        halves = {step for step, is_whole in found.items() if not is_whole} - here
        return halves | (old & {entry.step for entry in saved}) - to_keep(saved, self._cfg)


def _saved(step: int, read: Callable[[str], str]) -> Saved:
    below = f"{FOLDER}/{step}"
    scores = [read(f"{below}/{METRICS}")]
    with suppress(FileNotFoundError):
        scores.append(read(f"{below}/{LATER_METRICS}"))
    return parse_saved(step, read(f"{below}/{METADATA}"), scores, 0.0)
