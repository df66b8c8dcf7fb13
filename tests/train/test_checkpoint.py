"""A checkpoint on the disk: what comes back is what went in, whoever wrote it, or it is named as damaged."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from small_states import check_same, quiet, random_state, run_state
from tiny import host_batch, step_config

from jaxgpt.config import CheckpointConfig, Config
from jaxgpt.errors import UserError
from jaxgpt.model.stack import in_layout_of
from jaxgpt.train import checkpoint
from jaxgpt.train.checkpoint import best_step, read_run_state, read_state, restore_params, steps
from jaxgpt.train.guard import Guard
from jaxgpt.train.optimizer import decay_mask
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.saving import Checkpoints
from jaxgpt.train.seal import DamagedError
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.step import TrainState


def save(run: Path, cfg: Config, states: dict[int, TrainState], **changes) -> None:
    with Checkpoints(run, CheckpointConfig(keep_last=9), quiet) as checkpoints:
        for step, state in states.items():
            checkpoints.save(state, run_state(step, cfg), {"valid_loss": 1.0 / step, **changes})


@pytest.fixture(scope="module")
def cfg() -> Config:
    return step_config(n_layer=2)


@pytest.fixture(scope="module")
def state(cfg: Config) -> TrainState:
    return random_state(cfg)


@pytest.fixture(scope="module")
def shapes(cfg: Config) -> TrainState:
    return Pmapped(jax.devices()[:1]).shapes(cfg)


@pytest.fixture(scope="module")
def run(cfg: Config, state: TrainState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With checkpoints of steps 1 and 2, which differ."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    earlier = state._replace(step=np.int32(1), params=jax.tree.map(lambda leaf: leaf + 1, state.params))
    save(folder, cfg, {1: earlier, 2: state})
    return folder


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy that the test may spoil."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.mark.slow
def test_training_state_is_restored_bitwise_while_training_goes_on(tmp_path: Path) -> None:
    """The step after a save donates the buffers that are being written."""
    cfg, parallel = step_config(), Pmapped()
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    copies = {}
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=9), quiet) as checkpoints:
        for number in range(1, 4):
            state, _ = step(state, parallel.split(host_batch(number)))
            copies[number] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
            checkpoints.save(state, run_state(number, cfg), {"valid_loss": 1.0 / number})
    assert steps(tmp_path) == [1, 2, 3]
    with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
        for number, copy in copies.items():
            check_same(checkpoints.restore(number, parallel.shapes(cfg)), copy)
        restored = checkpoints.restore(3, parallel.shapes(cfg))
    # Training goes on from it as from the state itself.
    restored, _ = step(restored, parallel.split(host_batch(4)))
    state, _ = step(state, parallel.split(host_batch(4)))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))


def _way(number: int, cfg: Config) -> tuple[Parallel, Config]:
    stacked = replace(cfg, model=replace(cfg.model, scan_layers=True))
    return [
        (Pmapped(), cfg),
        (Pmapped(jax.devices()[:1]), stacked),
        (Sharded(cfg.model), cfg),
        (Sharded(cfg.model, jax.devices()[:4]), stacked),
    ][number]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "before", "after"),
    [
        ("adamw", 0, 3),
        ("adamw", 3, 0),
        ("adamw", 1, 2),
        ("adamw", 2, 1),
        ("adamw", 0, 2),
        ("adafactor", 0, 3),
        ("adafactor", 1, 2),
        ("muon", 2, 1),
        ("muon", 3, 2),
    ],
)
def test_modes_devices_and_layouts_pass_into_each_other(
    optimizer: str, before: int, after: int, tmp_path: Path
) -> None:
    cfg = step_config(n_layer=2, n_embd=40)
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, name=optimizer))
    parallel, saved_cfg = _way(before, cfg)
    host = random_state(saved_cfg)
    state = jax.tree.map(lambda leaf, place: jax.device_put(leaf, place.sharding), host, parallel.shapes(saved_cfg))
    save(tmp_path, saved_cfg, {3: parallel.on_host(state)})
    other, other_cfg = _way(after, cfg)
    like = other.shapes(other_cfg)
    with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
        found = checkpoints.restore(3, like)
    check_same(found, in_layout_of(other_cfg.model, host))
    assert jax.tree.all(jax.tree.map(lambda leaf, place: leaf.sharding == place.sharding, found, like))
    params = restore_params(tmp_path, 3, other.param_shapes(other_cfg.model))
    jax.tree.map(np.testing.assert_array_equal, params, found.params)


def test_a_checkpoint_from_before_there_was_a_guard(
    cfg: Config, state: TrainState, shapes: TrainState, tmp_path: Path
) -> None:
    """As it was written then, with Orbax's manager and the schedule's count in the state."""
    old_optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(0.1), mask=decay_mask)
    )
    empty, (_, masked, count) = jax.eval_shape(old_optimizer.init, state.params)
    old = (empty, (state.opt_state[1], masked, jax.tree.map(lambda _: jnp.int32(2), count)))
    content = {**asdict(run_state(2, cfg)), "wandb_id": "xyz"}
    with ocp.CheckpointManager(
        (tmp_path / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["valid_loss"]),
    ) as manager:
        manager.save(
            2,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(jax.tree.map(jnp.asarray, state.params)),
                optimizer=ocp.args.StandardSave(jax.tree.map(jnp.asarray, {"step": state.step, "opt_state": old})),
                run=ocp.args.JsonSave(content),
            ),
            metrics={"valid_loss": 2.5},
        )
    found = read_state(tmp_path, 2, shapes)
    assert found.guard == Guard(0.0, 0.0, 0, 0)
    check_same(found._replace(guard=state.guard), state)
    assert (steps(tmp_path), best_step(tmp_path)) == ([2], 2)
    assert read_run_state(tmp_path, 2) == run_state(2, cfg, wandb_id="xyz")
    (tmp_path / "checkpoints/2/params/_METADATA").write_text("{")
    with pytest.raises(DamagedError, match=r"2/params can't be read"):
        read_state(tmp_path, 2, shapes)


def test_run_state_comes_back(run: Path, cfg: Config) -> None:
    assert read_run_state(run, 2) == run_state(2, cfg)


def test_best_step(tmp_path: Path, cfg: Config, state: TrainState, run: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        best_step(tmp_path)
    assert best_step(run) == 2
    save(tmp_path, cfg, {3: state, 11: state})
    for step in (3, 11):
        (tmp_path / f"checkpoints/{step}/metrics/metrics").write_text("{}")
    assert best_step(tmp_path) == 11  # without any evaluation the newest, by number and not by name
    assert steps(tmp_path) == [3, 11]


def test_another_model_or_optimizer_is_no_damage(run: Path, cfg: Config) -> None:
    for other in (
        replace(cfg, model=replace(cfg.model, n_inner=41)),
        replace(cfg, optimizer=replace(cfg.optimizer, name="lion")),
    ):
        like = Pmapped(jax.devices()[:1]).shapes(other)
        with pytest.raises(UserError, match=r"2/(params|optimizer) has .* for .*, the configuration wants") as caught:
            read_state(run, 2, like)
        assert not isinstance(caught.value, DamagedError)


def _largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _cut(folder: Path) -> None:
    path = _largest(folder / "optimizer")
    path.write_bytes(path.read_bytes()[:-3])


def _flip(folder: Path) -> None:
    path = _largest(folder / "params")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def _unlink(folder: Path) -> None:
    _largest(folder / "params").unlink()


def _half_deleted(folder: Path) -> None:
    shutil.rmtree(folder / "optimizer")
    (folder / "files.json").unlink()


def _no_run_state(folder: Path) -> None:
    shutil.rmtree(folder / "run")


def _no_json(folder: Path) -> None:
    (folder / "run/metadata").write_text("{'step': ")
    (folder / "files.json").unlink()


def _no_seal(folder: Path) -> None:
    (folder / "files.json").unlink()


def _broken_seal(folder: Path) -> None:
    (folder / "files.json").write_bytes(b'{"run/metadata": {"bytes": \xff}}')


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (_cut, r"optimizer/.* has \d+ bytes, \d+ were written"),
    (_flip, r"params/.* has CRC-32C \w+, \w+ was written"),
    (_unlink, r"params/.* is missing"),
    (_half_deleted, r"files\.json is missing"),
    (_no_run_state, r"run/metadata is missing"),
    (_no_json, r"run/metadata can't be read \(Expecting property name"),
    (_no_seal, r"files\.json is missing"),
    (_broken_seal, r"files\.json can't be read"),
]


@pytest.mark.parametrize(("spoil", "reason"), DAMAGES, ids=[spoil.__name__ for spoil, _ in DAMAGES])
def test_damage_is_named_and_the_checkpoint_before_is_used(
    own_run: Path, shapes: TrainState, spoil: Callable[[Path], None], reason: str
) -> None:
    folder = own_run / "checkpoints"
    expected = read_state(own_run, 1, shapes)
    spoil(folder / "2")
    left = sorted(path.relative_to(folder / "2") for path in (folder / "2").rglob("*"))
    said: list[str] = []
    with Checkpoints(own_run, CheckpointConfig(), said.append) as checkpoints:
        with pytest.raises(DamagedError, match=reason):
            checkpoints.restore(2, shapes)
        newest = checkpoints.newest_whole(shapes)
    assert newest is not None
    check_same(newest[0], expected)
    assert newest[1].step == 1
    assert len(said) == 1
    assert said[0].startswith("checkpoint 2 is damaged: ")
    assert said[0].endswith(f"; moved it to {own_run / 'damaged' / '2'}, going on from step 1")
    assert not (folder / "2").exists()
    aside = own_run / "damaged" / "2"
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == left


def test_where_all_are_damaged_nothing_is_changed(own_run: Path, shapes: TrainState) -> None:
    for step in (1, 2):
        _flip(own_run / "checkpoints" / str(step))
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()}
    for _ in range(2):
        with (
            Checkpoints(own_run, CheckpointConfig(), quiet) as checkpoints,
            pytest.raises(
                UserError, match=r"all checkpoints in .* are damaged: 2: .*CRC.*; 1: .*; nothing was changed"
            ),
        ):
            checkpoints.newest_whole(shapes)
    assert {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()} == before


def test_a_second_damaged_checkpoint_of_a_step_has_a_place(
    own_run: Path, cfg: Config, state: TrainState, shapes: TrainState
) -> None:
    for name in ("2", "2.2"):
        _flip(own_run / "checkpoints" / "2")
        with Checkpoints(own_run, CheckpointConfig(), quiet) as checkpoints:
            newest = checkpoints.newest_whole(shapes)
            assert newest is not None
            assert newest[1].step == 1
            assert (own_run / "damaged" / name / "params").is_dir()
            checkpoints.save(state, run_state(2, cfg), {})
    check_same(read_state(own_run, 2, shapes), state)


def test_no_checkpoint_at_all(tmp_path: Path, shapes: TrainState) -> None:
    with Checkpoints(tmp_path, CheckpointConfig(), quiet) as checkpoints:
        assert checkpoints.newest_whole(shapes) is None


def test_an_array_that_was_copied_wrongly_is_noticed(
    tmp_path: Path, cfg: Config, state: TrainState, shapes: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is whole then: only the check-sum of what was on the devices tells."""
    from jaxgpt.train import saving

    def copy_wrongly(items: dict) -> dict:
        copies = jax.tree.map(np.array, items)
        copies["optimizer"]["opt_state"][1].mu["wte"]["weight"][3, 5] += 1e-3
        return copies

    monkeypatch.setattr(saving, "host_copy", copy_wrongly)
    save(tmp_path, cfg, {2: state})
    with pytest.raises(
        DamagedError, match=r"the arrays in .*2/optimizer have check-sum \d+, on the devices it was \d+"
    ):
        read_state(tmp_path, 2, shapes)


@pytest.mark.slow
def test_whatever_bit_flips_what_is_restored_is_right(own_run: Path, shapes: TrainState) -> None:
    """One bit in each file in turn, at a random place: the state and its description are right, or it is damaged."""
    expected, described = read_state(own_run, 2, shapes), read_run_state(own_run, 2)
    folder = own_run / "checkpoints" / "2"
    places = random.Random(0)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    few = [path for path in files if path.stat().st_size > 200 or places.random() < 0.1]
    damaged = 0
    for path in few + [folder / "files.json", folder / "run" / "metadata"] * 5:
        content = path.read_bytes()
        spoiled = bytearray(content)
        spoiled[places.randrange(len(content))] ^= 1 << places.randrange(8)
        path.write_bytes(spoiled)
        try:
            check_same(read_state(own_run, 2, shapes), expected)
            assert read_run_state(own_run, 2) == described
        except DamagedError:
            damaged += 1
        path.write_bytes(content)
    assert damaged >= len(few)
    check_same(read_state(own_run, 2, shapes), expected)


def test_parameters_alone_are_checked_too(own_run: Path, cfg: Config) -> None:
    like = Pmapped(jax.devices()[:1]).param_shapes(cfg.model)
    _cut(own_run / "checkpoints" / "2")  # the optimizer, which nobody asks for
    restore_params(own_run, 2, like)
    _flip(own_run / "checkpoints" / "2")
    with pytest.raises(DamagedError, match="CRC-32C"):
        restore_params(own_run, 2, like)


def test_run_state_is_plain_json(run: Path, cfg: Config) -> None:
    content = json.loads((run / checkpoint.FOLDER / "2" / "run" / "metadata").read_text(encoding="utf-8"))
    assert content.items() >= asdict(run_state(2, cfg)).items()
    assert content["saved_at"] > 1.7e9
    assert content["check_sums"].keys() == {"params", "optimizer"}
