"""The checkpoints of a run under way: written in the background, kept by three rules, gone back to when damaged."""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.train.arrays import host_copy, short
from jaxgpt.train.checkpoint import (
    FOLDER,
    RunState,
    add_metrics,
    add_way_back,
    items_of,
    read_run_state,
    read_saved,
    read_state,
    steps,
    write_checkpoint,
)
from jaxgpt.train.health import check_sum
from jaxgpt.train.mirror import Mirror
from jaxgpt.train.retention import to_keep
from jaxgpt.train.seal import DamagedError
from jaxgpt.train.share import arrays_from_first, from_first, place
from jaxgpt.train.step import TrainState

DAMAGED = "damaged"  # of a run: what was set aside


class Checkpoints:
    """The checkpoints of one run, for the first process only. Use as a context: leaving it waits until all is written.

    A checkpoint that can't be written does not end the training: `say` is told, and the next save tries again. If the
    last one is missing at the end, leaving raises UserError.
    clock: seconds since 1970.
    """

    def __init__(
        self,
        run: Path,
        cfg: CheckpointConfig,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ):
        self._run, self._folder, self._cfg, self._say, self._clock = run, run / FOLDER, cfg, say, clock
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None
        self._failed: str | None = None  # why the newest step that was to be saved is not there
        self._folder.mkdir(parents=True, exist_ok=True)
        # What a killed process left behind is as large as a checkpoint.
        for left in [*self._folder.glob(".*"), *self._folder.glob("*.orbax-checkpoint-tmp*")]:
            shutil.rmtree(left, ignore_errors=True)
        self._mirror = Mirror(run, cfg.mirror, cfg, say) if cfg.mirror else None

    def save(self, state: TrainState, run_state: RunState, metrics: dict[str, float]) -> None:
        """Copies the state to the host and writes it in the background; a step that is saved already is left.

        state: of jax arrays, or of numpy arrays that nobody changes. metrics: what cfg.best_metric is chosen from.
        Waits until the checkpoint before is written, so there is never more than one copy of the state.
        """
        self.wait()
        if (self._folder / str(run_state.step)).exists():
            return
        items = items_of(state)
        check_sums = {name: check_sum(item) for name, item in items.items()}
        content = {**asdict(run_state), "saved_at": self._clock(), "check_sums": check_sums}
        self._writing = self._writer.submit(self._write, run_state.step, host_copy(items), content, metrics)

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Of a checkpoint that is on the disk, by a validation that came after it."""
        try:
            add_metrics(self._run, step, metrics)
        except OSError as error:
            self._say(f"{self._folder / str(step)} does not know its {', '.join(metrics)} ({short(error)})")

    def add_way_back(self, run_state: RunState) -> None:
        """That the run came back to a checkpoint and goes on with later data, if the checkpoint is there to hold it.

        A process that dies before the next checkpoint would else lead the next one into the same bad steps.
        """
        try:
            add_way_back(self._run, run_state)
        except OSError as error:
            self._say(f"{self._folder / str(run_state.step)} does not know where its data goes on ({short(error)})")

    def wait(self) -> None:
        """Returns when what was asked for is on the disk, or could not be written."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of one checkpoint, laid out as the shapes in `like` are, and placed so in a job of one process.

        Of several processes this is the first one: it gets numpy arrays, for `arrays_from_first`.
        Raises DamagedError where the files are not what was written, and UserError where `like` is of another kind.
        """
        if jax.process_count() > 1:
            return read_state(self._run, step, like)
        return place(read_state(self._run, step, like), like)

    def newest_whole(self, like: TrainState) -> tuple[TrainState, RunState] | None:
        """The newest checkpoint that is whole; None where there is none at all.

        Newer ones, which are damaged, are named and set aside. UserError where all are damaged; then nothing is moved.
        """
        self.wait()
        damaged: dict[int, DamagedError] = {}
        for step in sorted((int(entry.name) for entry in self._folder.iterdir() if entry.name.isdigit()), reverse=True):
            try:
                found = self.restore(step, like), read_run_state(self._run, step)
            except DamagedError as error:
                damaged[step] = error
                continue
            for number, reason in damaged.items():
                aside = self._set_aside(number)
                self._say(f"checkpoint {number} is damaged: {reason}; moved it to {aside}, going on from step {step}")
            return found
        if damaged:
            listed = "; ".join(f"{step}: {error}" for step, error in damaged.items())
            raise UserError(
                f"all checkpoints in {self._folder} are damaged: {listed}; nothing was changed: put back a good copy, "
                "from checkpoint.mirror if there is one, or give a new output folder"
            )
        return None

    def _set_aside(self, step: int) -> Path:
        folder = self._run / DAMAGED
        folder.mkdir(exist_ok=True)
        names = (folder / f"{step}{suffix}" for suffix in ["", *(f".{n}" for n in range(2, 1000))])
        return (self._folder / str(step)).rename(next(name for name in names if not name.exists()))

    def _write(self, step: int, items: dict[str, Any], content: dict[str, Any], metrics: dict[str, float]) -> None:
        try:
            write_checkpoint(self._folder / str(step), items, content, metrics)
        except Exception as error:  # the training is worth more than any one checkpoint
            self._failed = f"step {step} could not be saved ({short(error)})"
            self._say(f"{self._run}: {self._failed}; training goes on, and the next save tries again; {self._newest()}")
            return
        if self._failed:
            self._say(f"{self._run}: step {step} is saved: writing works again")
        self._failed = None
        removed = self._retain()
        if self._mirror:
            self._mirror.changed(step, removed)

    def _newest(self) -> str:
        done = steps(self._run)
        return f"the newest checkpoint is {self._folder / str(done[-1])}" if done else "there is no checkpoint yet"

    def _retain(self) -> set[int]:
        """Removes what no rule wants; which steps that were."""
        saved = []
        for step in steps(self._run):
            try:
                saved.append(read_saved(self._run, step))
            except DamagedError:
                continue  # it stays until somebody has looked at it
        removed = {entry.step for entry in saved} - to_keep(saved, self._cfg)
        for step in removed:
            gone = self._folder / f".{step}.removed"
            try:
                shutil.rmtree(gone, ignore_errors=True)
                # First its name, so that no half of a checkpoint is ever taken for one.
                (self._folder / str(step)).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
            except OSError as error:
                self._say(f"checkpoint {step} of {self._run} should go and can't be removed ({short(error)})")
        return removed

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is KeyboardInterrupt:  # whoever insists on leaving waits for nothing
            self._writer.shutdown(wait=False, cancel_futures=True)
            return
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            if self._mirror:
                self._mirror.close()
        if self._failed and error is None:
            raise UserError(
                f"{self._run}: {self._failed}; {self._newest()}: make room or repair the folder, and the same command "
                "goes on from there"
            )


def newest_on_all(checkpoints: Checkpoints | None, like: TrainState) -> tuple[TrainState, RunState] | None:
    """`newest_whole` for all processes of a run, each of which must call it.

    checkpoints: of the first process; None on the others.
    """
    found: list[TrainState] = []

    def find() -> dict[str, Any] | None:
        newest = checkpoints.newest_whole(like) if checkpoints else None
        if newest is None:
            return None
        found.append(newest[0])
        return asdict(newest[1])

    run_state = from_first(find)
    if run_state is None:
        return None
    return arrays_from_first(found.pop() if found else None, like), RunState(**run_state)
