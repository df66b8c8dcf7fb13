"""Checkpoints: what is kept, what counts as whole, and that what comes back is what went in."""

import datetime
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import host_batch, step_config

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.train import checkpoint
from jaxgpt.train.checkpoint import Checkpoints, RunState, best_step, read_run_state, restore_params, steps
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.step import TrainState

NEVER = 1e6  # hours


def _small(step: int) -> TrainState:
    array = jnp.full((3,), float(step))
    return TrainState(jnp.int32(step), {"w": array}, {"mu": array + 0.5})


def _run_state(step: int, **changes) -> RunState:
    return RunState(
        step=step, position=8 * step, config={"seed": 1, "model": {}}, data="abc", dialogue_format=None, **changes
    )


def _save(run: Path, cfg: CheckpointConfig, losses: dict[int, float | None]) -> None:
    with Checkpoints(run, cfg) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(_small(step), _run_state(step), loss)
            checkpoints.wait()


def test_the_newest_stay(tmp_path: Path) -> None:
    losses = dict.fromkeys(range(1, 8))
    _save(tmp_path, CheckpointConfig(keep_last=3, keep_every_hours=NEVER, keep_best=0), losses)
    # The first opens the first period of keep_every_hours.
    assert steps(tmp_path) == [1, 5, 6, 7]


def test_the_best_stay_over_a_restart(tmp_path: Path) -> None:
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER, keep_best=2)
    _save(tmp_path, cfg, {1: 9.0, 2: 3.0, 3: 5.0, 4: 1.0, 5: None, 6: 8.0})
    assert steps(tmp_path) == [1, 2, 4, 6]
    _save(tmp_path, cfg, {7: 2.0, 8: 7.0})
    assert steps(tmp_path) == [1, 4, 7, 8]
    assert best_step(tmp_path) == 4


def test_one_of_each_period_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours are faked where Orbax takes the time of a checkpoint for its policies."""
    from orbax.checkpoint import checkpoint_managers as managers

    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    real = managers.EveryNSeconds.should_preserve

    def with_one_hour_per_step(self, checkpoints, *, context):
        for info in checkpoints:
            info.time = start + datetime.timedelta(hours=info.step)
        return real(self, checkpoints, context=context)

    monkeypatch.setattr(managers.EveryNSeconds, "should_preserve", with_one_hour_per_step)
    cfg = CheckpointConfig(keep_last=2, keep_every_hours=4.0, keep_best=0)
    _save(tmp_path, cfg, dict.fromkeys(range(1, 13)))
    assert steps(tmp_path) == [1, 5, 9, 11, 12]


def test_best_step_without_any_evaluation_is_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        best_step(tmp_path)
    _save(tmp_path, CheckpointConfig(), {3: None, 11: None})
    assert best_step(tmp_path) == 11
    assert steps(tmp_path) == [3, 11]  # by number, not by name


def test_run_state_comes_back(tmp_path: Path) -> None:
    state = _run_state(5, wandb_id="xyz")
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(_small(5), state)
    assert read_run_state(tmp_path, 5) == state


def test_a_step_that_is_saved_already_is_left(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(_small(5), _run_state(5))
        checkpoints.wait()
        checkpoints.save(_small(6), _run_state(5, wandb_id="later"))
    assert read_run_state(tmp_path, 5).wandb_id is None
    assert restore_params(tmp_path, 5, _small(0).params)["w"].tolist() == [5.0] * 3


@pytest.mark.slow
def test_training_state_is_restored_bitwise_while_training_goes_on(tmp_path: Path) -> None:
    """The step after a save donates the buffers that are being written."""
    cfg, parallel = step_config(), Parallel()
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    copies = {}
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=9)) as checkpoints:
        for number in range(1, 4):
            state, _ = step(state, parallel.split(host_batch(number)))
            copies[number] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
            checkpoints.save(state, _run_state(number), 1.0 / number)
    assert steps(tmp_path) == [1, 2, 3]

    for devices in (8, 1):  # a checkpoint knows no number of devices
        other = Parallel(jax.devices()[:devices])
        with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
            restored = checkpoints.restore(3, other.abstract_state(cfg))
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        for leaf, copy in zip(jax.tree.leaves(restored), jax.tree.leaves(copies[3]), strict=True):
            np.testing.assert_array_equal(leaf, copy)
            assert leaf.dtype == copy.dtype
            assert len(leaf.addressable_shards) == devices
    for number, copy in copies.items():
        params = restore_params(tmp_path, number, parallel.abstract_state(cfg).params)
        jax.tree.map(np.testing.assert_array_equal, params, copy.params)
    # Training goes on from it as from the state itself.
    restored, _ = step(jax.tree.map(parallel.replicate, copies[3]), parallel.split(host_batch(4)))
    state, _ = step(state, parallel.split(host_batch(4)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))


def test_what_orbax_has_not_renamed_yet_is_no_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, CheckpointConfig(), {4: 2.0})
    folder = tmp_path / checkpoint.FOLDER
    shutil.copytree(folder / "4", folder / "7.orbax-checkpoint-tmp-1718000000000000")
    assert steps(tmp_path) == [4]
    assert best_step(tmp_path) == 4
    # The next process goes on and cleans up.
    _save(tmp_path, CheckpointConfig(), {7: 1.0})
    assert steps(tmp_path) == [4, 7]
    assert sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) == ["4", "7"]


@pytest.mark.parametrize("left", [[], ["params"], ["run"], ["metrics"]])
def test_an_old_step_whose_deletion_was_killed_halfway_harms_nothing(tmp_path: Path, left: list[str]) -> None:
    cfg = CheckpointConfig(keep_last=1, keep_every_hours=NEVER)
    _save(tmp_path, cfg, {4: 2.0, 7: 1.0})
    for entry in (tmp_path / checkpoint.FOLDER / "4").iterdir():
        if entry.name not in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert best_step(tmp_path) == 7
    _save(tmp_path, cfg, {8: 0.5})
    assert steps(tmp_path)[-1] == 8
    assert best_step(tmp_path) == 8


def test_run_state_is_plain_json(tmp_path: Path) -> None:
    _save(tmp_path, CheckpointConfig(), {4: 2.0})
    content = (tmp_path / checkpoint.FOLDER / "4" / "run" / "metadata").read_text(encoding="utf-8")
    assert json.loads(content) == asdict(_run_state(4))
