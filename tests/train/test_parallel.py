"""Both ways of mapping a step over devices give the same numbers, which are those of one device."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from tiny import host_batch, step_config

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import init_params
from jaxgpt.model.stack import unrolled
from jaxgpt.optimizer_config import LossConfig, OptimizerConfig
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.sharded import Sharded
from jaxgpt.train.step import TrainState

# Widths that 4 divides and 8 does not, so that 8 devices are 2 replicas of 4 shards; 8 divides only the table's rows.
SHAPE = {"n_layer": 2, "n_embd": 20, "n_head": 5, "n_inner": 36}
STEPS = 4


def _train(parallel: Parallel, cfg: Config, **reference: Any) -> tuple[list[dict[str, float]], TrainState]:
    state, step = parallel.init_state(cfg), parallel.train_step(cfg, reference.get("cfg"))
    arguments = [reference["params"]] if reference else []
    lines = []
    for number in range(STEPS):
        state, metrics = step(state, parallel.split(host_batch(number)), *arguments)
        lines.append({name: float(value) for name, value in metrics.items()})
    sums = parallel.eval_step(cfg.model)(state.params, parallel.split(host_batch(9)))
    return [*lines, {name: float(value) for name, value in sums.items()}], jax.device_get(state)


def _assert_same(one: Any, other: Any, optimizer: str) -> None:
    for line, other_line in zip(one[0], other[0], strict=True):
        assert line == pytest.approx(other_line, rel=1e-5, abs=1e-6)
    if optimizer == "adafactor":  # divides by a gradient's size: where it is rounding alone, as of the keys' biases
        return
    for leaf, other_leaf in zip(jax.tree.leaves(one[1].params), jax.tree.leaves(other[1].params), strict=True):
        np.testing.assert_allclose(leaf, other_leaf, atol=2e-4)


def _config(options: dict[str, Any], optimizer: str, microbatches: int) -> Config:
    cfg = step_config(microbatches=microbatches, **{**SHAPE, **options})
    return replace(cfg, optimizer=OptimizerConfig(name=optimizer, learning_rate=1e-2, warmup_steps=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "optimizer", "microbatches"),
    [
        ({"scan_layers": True, "remat": "full"}, "adamw", 2),
        ({"share": "attention", "n_groups": 2, "embed_dim": 8, "tie_word_embeddings": False}, "adafactor", 1),
        ({"use_token_types": False, "use_role_table": True}, "muon", 1),
    ],
)
def test_sharded_equals_mapped_equals_one_device(options: dict[str, Any], optimizer: str, microbatches: int) -> None:
    cfg = _config(options, optimizer, microbatches)
    mapped = _train(Pmapped(), cfg)
    _assert_same(_train(Sharded(cfg.model), cfg), mapped, optimizer)
    _assert_same(_train(Pmapped(jax.devices()[:1]), cfg), mapped, optimizer)


def test_matrices_are_cut_up_and_nothing_else_is() -> None:
    cfg = step_config(**SHAPE)
    shapes = Sharded(cfg.model).shapes(cfg)
    layer = shapes.params["h"]["0"]
    assert layer["attn"]["c_attn"]["weight"].sharding.shard_shape((20, 60)) == (5, 60)
    assert layer["attn"]["c_attn"]["bias"].sharding.is_fully_replicated
    moments = [leaf for leaf in jax.tree.leaves(shapes.opt_state) if leaf.shape == (20, 60)]
    assert moments
    assert all(leaf.sharding.shard_shape(leaf.shape) == (5, 60) for leaf in moments)
    stacked = Sharded(cfg.model).param_shapes(replace(cfg.model, scan_layers=True))["h"]["mlp"]["c_fc"]["weight"]
    assert stacked.sharding.shard_shape(stacked.shape) == (2, 5, 36)


@pytest.mark.parametrize("make", [Pmapped, lambda: Sharded(step_config(**SHAPE).model)])
def test_a_state_is_where_its_shapes_say_and_is_used_up(make: Callable[[], Parallel]) -> None:
    parallel, cfg = make(), step_config(**SHAPE)
    state = parallel.init_state(cfg)
    step = parallel.train_step(cfg)
    for _ in range(2):
        for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(parallel.shapes(cfg)), strict=True):
            assert leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
            assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        before = state
        state, _ = step(state, parallel.split(host_batch(0)))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_the_loss_with_smoothing_and_a_reference(sharded: bool) -> None:
    """Against the plain formulas on one whole batch."""
    loss = LossConfig(label_smoothing=0.1, kl_weight=0.5, kl_model="other")
    cfg = replace(step_config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SHAPE), loss=loss)
    like = replace(cfg.model, n_layer=1, n_embd=40, use_token_types=False)
    parallel = Sharded(cfg.model) if sharded else Pmapped()
    theirs = jax.tree.map(
        lambda leaf, shape: jax.device_put(leaf * 5, shape.sharding), init_params(like, 4), parallel.param_shapes(like)
    )
    state, batch = parallel.init_state(cfg), host_batch(3)
    params = jax.device_get(state.params)
    _, metrics = parallel.train_step(cfg, like)(state, parallel.split(batch), theirs)

    logs, like_logs = (_logprobs(model, tree, batch) for model, tree in ((cfg.model, params), (like, theirs)))
    weights = batch["weights"]
    target = np.take_along_axis(logs, batch["targets"][..., None], -1)[..., 0]
    nll = -(0.9 * target + 0.1 * logs.mean(-1))
    kl = (np.exp(like_logs) * (like_logs - logs)).sum(-1)
    assert metrics["kl"] == pytest.approx((kl * weights).sum() / weights.sum(), rel=1e-4)
    assert metrics["loss"] == pytest.approx(((nll + 0.5 * kl) * weights).sum() / weights.sum(), rel=1e-5)
    assert metrics["kl"] > 0.01


def _logprobs(model: Any, params: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    from jaxgpt.model import gpt2

    inputs = {f"{name}_BT": batch[name] for name in ("positions", "segments", "roles")}
    logits = gpt2.logits(model, unrolled(model, params), batch["input_ids"], **inputs)
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


def test_a_bad_step_changes_no_parameter_and_is_counted() -> None:
    parallel, cfg = Pmapped(), step_config()
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    bad = host_batch(0)
    bad["weights"][3, 3] = np.nan
    for number, (batch, bad_in_row) in enumerate([(host_batch(1), 0), (bad, 1), (bad, 2), (host_batch(2), 0)]):
        before = jax.device_get((state.params, state.opt_state))
        state, metrics = step(state, parallel.split(batch))
        assert metrics["bad_in_row"] == bad_in_row
        assert state.step == number + 1
        after = jax.device_get((state.params, state.opt_state))
        same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
        assert all(same) if bad_in_row else not any(same[: len(jax.tree.leaves(before[0]["h"]))])


def test_dropout_can_be_turned_off_for_a_stage() -> None:
    parallel, cfg = Pmapped(jax.devices()[:1]), step_config()
    without = replace(cfg, train=replace(cfg.train, dropout=False))
    plain = replace(cfg, model=replace(cfg.model, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))

    def first_loss(cfg: Config) -> float:
        _, metrics = parallel.train_step(cfg)(parallel.init_state(cfg), parallel.split(host_batch(0)))
        return float(metrics["loss"])

    assert first_loss(without) == first_loss(plain)
    assert first_loss(without) != first_loss(cfg)


def test_devices_that_divide_no_matrix_are_refused() -> None:
    model = step_config(n_embd=13, n_head=1, n_inner=11, vocab_size=5).model
    model = replace(model, n_positions=7, use_token_types=False)
    with pytest.raises(
        UserError, match=r"no matrix .*n_embd 13, .* can be cut into equal parts for 5 devices; set parallel\.mode"
    ):
        Sharded(model, jax.devices()[:5])
