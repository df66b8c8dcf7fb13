"""Checkpoints of a run under way: in the background, kept by the rules, and never at the cost of an older one."""

import errno
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from small_states import quiet, run_state, small, small_shapes
from tiny import environment

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.train import saving
from jaxgpt.train.checkpoint import FOLDER, best_step, read_run_state, read_state, steps
from jaxgpt.train.saving import Checkpoints
from jaxgpt.train.seal import DamagedError

NEVER = 1e6  # hours
SIZE = 50_000  # numbers of the largest array: 200 kB


def save_all(run: Path, cfg: CheckpointConfig, losses: dict[int, float | None], hours_per_step: float = 0.0) -> None:
    now = [0.0]
    with Checkpoints(run, cfg, quiet, clock=lambda: now[0]) as checkpoints:
        for step, loss in losses.items():
            now[0] = 1e9 + 3600 * step * hours_per_step
            checkpoints.save(small(step), run_state(step), {} if loss is None else {cfg.best_metric: loss})


def test_the_rules_hold_over_a_restart(tmp_path: Path) -> None:
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER, keep_best=2)
    save_all(tmp_path, cfg, {1: 9.0, 2: 3.0, 3: 5.0, 4: 1.0, 5: None, 6: 8.0})
    assert steps(tmp_path) == [1, 2, 4, 6]
    save_all(tmp_path, cfg, {7: 2.0, 8: 7.0})
    assert steps(tmp_path) == [1, 4, 7, 8]
    assert best_step(tmp_path) == 4
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["1", "4", "7", "8"]


def test_one_of_each_period_stays_and_the_best_by_the_loss_of_training(tmp_path: Path) -> None:
    cfg = CheckpointConfig(keep_last=2, keep_every_hours=4.0, keep_best=1, best_metric="train_loss")
    losses = {step: 0.1 if step == 3 else 2.0 for step in range(1, 13)}
    save_all(tmp_path, cfg, dict(list(losses.items())[:6]), hours_per_step=1.0)
    save_all(tmp_path, cfg, dict(list(losses.items())[6:]), hours_per_step=1.0)
    assert steps(tmp_path) == [1, 3, 5, 9, 11, 12]


def test_a_checkpoint_that_can_t_be_read_is_not_removed(tmp_path: Path) -> None:
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER, keep_best=0)
    save_all(tmp_path, cfg, {1: None, 2: None})
    (tmp_path / FOLDER / "2" / "run" / "metadata").write_text("{")
    save_all(tmp_path, cfg, {3: None, 4: None})
    assert steps(tmp_path) == [1, 2, 4]


def test_a_checkpoint_that_can_t_be_removed_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER, keep_best=0)
    said: list[str] = []
    rename = Path.rename

    def stubborn(path: Path, target: Path) -> Path:
        if target.name == ".2.removed":
            raise OSError(errno.ESTALE, "stale")
        return rename(path, target)

    with Checkpoints(tmp_path, cfg, said.append) as checkpoints:
        checkpoints.save(small(1), run_state(1), {})
        checkpoints.wait()
        monkeypatch.setattr(Path, "rename", stubborn)
        for step in (2, 3, 4):
            checkpoints.save(small(step), run_state(step), {})
    assert steps(tmp_path) == [1, 2, 4]
    assert "checkpoint 2 of" in said[0]
    assert "can't be removed" in said[0]


def test_whoever_insists_on_leaving_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    write = saving.write_checkpoint

    def slow(*args: Any) -> None:
        released.wait(60)
        write(*args)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), quiet)
    checkpoints.save(small(1), run_state(1), {})
    with pytest.raises(KeyboardInterrupt), checkpoints:
        raise KeyboardInterrupt
    assert steps(tmp_path) == []
    released.set()


def test_the_best_of_those_that_can_be_read(tmp_path: Path) -> None:
    save_all(tmp_path, CheckpointConfig(), {1: 1.0, 2: 2.0, 3: 3.0})
    (tmp_path / FOLDER / "1" / "metrics" / "metrics").write_text("{")
    assert best_step(tmp_path) == 2


def test_where_the_data_goes_on_after_a_way_back(tmp_path: Path) -> None:
    said: list[str] = []
    with Checkpoints(tmp_path, CheckpointConfig(), said.append) as checkpoints:
        checkpoints.save(small(3), run_state(3), {})
        checkpoints.wait()
        checkpoints.add_way_back(replace(run_state(3), position=99, rollbacks=2))
        checkpoints.add_way_back(replace(run_state(0), position=99))  # there is no such checkpoint
        found = checkpoints.newest_whole(small_shapes())
    assert found is not None
    assert found[1] == replace(run_state(3), position=99, rollbacks=2)
    assert said == []
    (tmp_path / FOLDER / "3" / "run" / "way_back").write_text("[]")
    with pytest.raises(DamagedError, match="way_back can't be read"):
        read_run_state(tmp_path, 3)


def test_a_step_that_is_saved_already_is_left(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
        checkpoints.save(small(5), run_state(5), {})
        checkpoints.save(small(6), run_state(5, wandb_id="later"), {})
        checkpoints.wait()
        checkpoints.save(small(6), run_state(5, wandb_id="later"), {})
    assert read_run_state(tmp_path, 5).wandb_id is None
    assert read_state(tmp_path, 5, small_shapes()).params["w"].tolist() == [5.0] * 3


def test_saving_goes_on_while_the_caller_does_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, real = threading.Event(), saving.write_checkpoint

    def slow(*args) -> None:
        assert may_write.wait(30)
        real(*args)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
        numbers = np.full(3, 7.0, np.float32)
        state = small(7)._replace(params={"w": jax.device_put(numbers)})
        checkpoints.save(state, run_state(7), {})
        for leaf in jax.tree.leaves(state):
            leaf.delete()  # as donation does
        assert steps(tmp_path) == []
        may_write.set()
        checkpoints.wait()
        assert steps(tmp_path) == [7]
    assert read_state(tmp_path, 7, small_shapes()).params["w"].tolist() == [7.0] * 3


def test_what_a_killed_process_left_is_no_checkpoint_and_is_removed(tmp_path: Path) -> None:
    save_all(tmp_path, CheckpointConfig(), {4: 2.0})
    folder = tmp_path / FOLDER
    for name in ("7.orbax-checkpoint-tmp-1718000000000000", ".7.partial", ".3.removed"):
        shutil.copytree(folder / "4", folder / name)
    assert steps(tmp_path) == [4]
    assert best_step(tmp_path) == 4
    save_all(tmp_path, CheckpointConfig(), {7: 1.0})
    assert steps(tmp_path) == [4, 7]
    assert sorted(entry.name for entry in folder.iterdir()) == ["4", "7"]


@pytest.mark.parametrize("left", [[], ["params"], ["run"], ["metrics"]])
def test_an_old_step_whose_deletion_was_killed_halfway_harms_nothing(tmp_path: Path, left: list[str]) -> None:
    """Runs from before a checkpoint lost its name first."""
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER)
    save_all(tmp_path, cfg, {4: 2.0, 7: 1.0})
    for entry in (tmp_path / FOLDER / "4").iterdir():
        if entry.name not in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert best_step(tmp_path) == 7
    save_all(tmp_path, cfg, {8: 0.5})
    assert steps(tmp_path)[-1] == 8
    assert best_step(tmp_path) == 8
    with Checkpoints(tmp_path, cfg, quiet) as checkpoints:
        newest = checkpoints.newest_whole(small_shapes())
    assert newest is not None
    assert newest[1].step == 8


@contextmanager
def no_file_above(n_bytes: int) -> Iterator[None]:
    """Writing more fails with an OSError, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_no_older_checkpoint_and_the_next_save_tries_again(tmp_path: Path) -> None:
    said: list[str] = []
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER, keep_best=0)
    with Checkpoints(tmp_path, cfg, said.append) as checkpoints:
        checkpoints.save(small(1, SIZE), run_state(1), {})
        checkpoints.save(small(2, SIZE), run_state(2), {})
        checkpoints.wait()
        for step in (3, 4):
            with no_file_above(SIZE):
                checkpoints.save(small(step, SIZE), run_state(step), {})
                checkpoints.wait()
            assert steps(tmp_path) == [1, 2]
        (tmp_path / FOLDER / ".3.partial").mkdir(exist_ok=True)  # as a writer that is late with its end leaves it
        newest = checkpoints.newest_whole(small_shapes(SIZE))
        checkpoints.save(small(5, SIZE), run_state(5), {})
    assert newest is not None
    assert newest[0].params["w"].tolist() == [2.0] * SIZE
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["1", "5"]
    assert len(said) == 3
    for step, line in zip((3, 4), said, strict=False):
        assert line.startswith(f"{tmp_path}: step {step} could not be saved (")
        assert line.endswith(
            f"training goes on, and the next save tries again; the newest checkpoint is {tmp_path / FOLDER / '2'}"
        )
    assert said[2] == f"{tmp_path}: step 5 is saved: writing works again"


def test_a_disk_that_is_too_small_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with Checkpoints(tmp_path, CheckpointConfig(), said.append) as checkpoints:
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * 4 * SIZE))
            checkpoints.save(small(1, SIZE), run_state(1), {})
            checkpoints.wait()
        checkpoints.save(small(2, SIZE), run_state(2), {})
    assert "step 1 could not be saved (it needs 0.0004 GB, of which 0.0004 GB are free)" in said[0]
    assert steps(tmp_path) == [2]


def save_with_full_disk(run: Path, step: int, then: Exception | None = None) -> None:
    with Checkpoints(run, CheckpointConfig(), quiet) as checkpoints, no_file_above(SIZE):
        checkpoints.save(small(step, SIZE), run_state(step), {})
        checkpoints.wait()
        if then:
            raise then


def test_what_is_missing_at_the_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 1 could not be saved .*; there is no checkpoint yet: make room"):
        save_with_full_disk(tmp_path, 1)
    save_all(tmp_path, CheckpointConfig(), {1: None})
    with pytest.raises(UserError, match=r"step 2 could not be saved .*; the newest checkpoint is .*/1: make room"):
        save_with_full_disk(tmp_path, 2)
    with pytest.raises(KeyError):  # what ended the training is not hidden
        save_with_full_disk(tmp_path, 2, then=KeyError())


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[2])
from small_states import quiet, run_state, small
from jaxgpt.config import CheckpointConfig
from jaxgpt.train.saving import Checkpoints
with Checkpoints(Path(sys.argv[1]), CheckpointConfig(keep_last=2, keep_every_hours=1e6), quiet) as checkpoints:
    for step in range(int(sys.argv[3]), 10_000):
        checkpoints.save(small(step, 1000), run_state(step), {})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_only_whole_checkpoints(tmp_path: Path) -> None:
    """When a step is said to be asked for, the one before it is on the disk."""
    first = 1
    for n_lines in (2, 5, 9):
        arguments = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent), str(first)]
        process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(n_lines):
            asked = int(process.stdout.readline())
        process.kill()
        process.wait()
        with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
            newest = checkpoints.newest_whole(small_shapes(1000))
        assert newest is not None
        assert newest[1].step >= asked - 1
        assert newest[0].params["w"].tolist() == [float(newest[1].step)] * 1000
        assert not (tmp_path / "damaged").exists()
        first = newest[1].step + 1
