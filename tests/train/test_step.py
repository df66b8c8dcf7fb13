"""The step: the same on any number of devices and microbatches, and equal to a plain formula on one."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from tiny import host_batch, step_config
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.config import Config
from jaxgpt.model import gpt2
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.optimizer_config import OptimizerConfig
from jaxgpt.train import pmapped
from jaxgpt.train.pmapped import Pmapped

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def _train(cfg: Config, n_devices: int, n_steps: int = 5):
    parallel = Pmapped(jax.devices()[:n_devices])
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    metrics = []
    for number in range(n_steps):
        state, values = step(state, parallel.split(host_batch(number)))
        metrics.append({name: float(value) for name, value in values.items()})
    return jax.device_get(state), metrics


def _assert_same_run(one, other) -> None:
    (state, metrics), (other_state, other_metrics) = one, other
    for values, other_values in zip(metrics, other_metrics, strict=True):
        assert values == pytest.approx(other_values, rel=1e-5)
    assert state.step == other_state.step
    flat, other_flat = (np.concatenate([p.ravel() for p in jax.tree.leaves(s.params)]) for s in (state, other_state))
    np.testing.assert_allclose(flat, other_flat, atol=2e-4)


def _plain_loss(cfg: Config, params, batch) -> jax.Array:
    """Σ nll·w / Σ w over the whole batch at once, without the fused loss."""
    inputs = {f"{name}_BT": batch[name] for name in ("positions", "segments", "roles")}
    logprobs = jax.nn.log_softmax(gpt2.logits(cfg.model, params, batch["input_ids"], **inputs))
    nll = -jnp.take_along_axis(logprobs, batch["targets"][..., None], -1)[..., 0]
    return (nll * batch["weights"]).sum() / batch["weights"].sum()


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [{}, NO_DROPOUT], ids=["dropout", "no_dropout"])
def test_eight_devices_and_microbatches_equal_one_device(dropout: dict) -> None:
    one = _train(step_config(**dropout), 1)
    _assert_same_run(_train(step_config(**dropout), 8), one)
    _assert_same_run(_train(step_config(microbatches=4, **dropout), 2), one)
    losses = [values["loss"] for values in one[1]]
    assert len(set(losses)) == len(losses)


@pytest.mark.slow
def test_dropout_acts_and_differs_between_steps() -> None:
    batch = host_batch(0)

    def first_losses(cfg: Config) -> list[float]:
        parallel = Pmapped(jax.devices()[:2])
        # A learning rate so small that the losses of a repeated batch differ by dropout alone.
        cfg = replace(cfg, optimizer=OptimizerConfig(learning_rate=1e-20, warmup_steps=0))
        state, step = parallel.init_state(cfg), parallel.train_step(cfg)
        losses = []
        for _ in range(3):
            state, values = step(state, parallel.split(batch))
            losses.append(float(values["loss"]))
        return losses

    assert len(set(first_losses(step_config()))) == 3
    assert len(set(first_losses(step_config(**NO_DROPOUT)))) == 1


@pytest.mark.slow
def test_loss_norm_and_update_equal_a_plain_formula_with_real_weights_unevenly_spread() -> None:
    cfg, batch = step_config(**NO_DROPOUT), host_batch(1)
    per_device = batch["weights"].reshape(8, -1).sum(1)
    assert per_device.max() > 5 * per_device.min()
    parallel = Pmapped()
    state = parallel.init_state(cfg)
    params = jax.device_get(state.params)
    after, metrics = parallel.train_step(cfg)(state, parallel.split(batch))

    loss, grads = jax.jit(jax.value_and_grad(lambda params: _plain_loss(cfg, params, batch)))(params)
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert metrics["tokens"] == (batch["weights"] > 0).sum()
    norm = np.sqrt(sum((np.asarray(grad, np.float64) ** 2).sum() for grad in jax.tree.leaves(grads)))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    # The first moment after one step is (1 - b1) times the clipped gradient: it compares gradients, not their signs.
    moments = optax.tree.get(after.opt_state, "mu")
    scale = (1 - cfg.optimizer.b1) * min(1.0, cfg.optimizer.max_grad_norm / norm)
    for moment, grad in zip(jax.tree.leaves(moments), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(moment / scale, grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_table_stays_tied_after_updates() -> None:
    cfg = step_config(**NO_DROPOUT)
    state, _ = _train(cfg, 8, 4)
    names = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
    theirs = GPT2LMHeadModel(GPT2Config(**{name: getattr(cfg.model, name) for name in names})).eval()
    tensors = {name: torch.from_numpy(np.array(t)) for name, t in to_hf_tensors(state.params, cfg.model).items()}
    assert theirs.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
    theirs.tie_weights()
    batch = host_batch(9)
    long = {name: torch.from_numpy(batch[name]).long() for name in ("input_ids", "roles")}
    with torch.no_grad():
        expected = theirs(long["input_ids"], token_type_ids=long["roles"]).logits
    ours = gpt2.logits(cfg.model, state.params, batch["input_ids"], roles_BT=batch["roles"])
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert (state.params["wte"]["weight"][131:] == 0).all()


def test_the_state_that_goes_in_is_used_up() -> None:
    cfg = step_config()
    parallel = Pmapped()
    state, batch = parallel.init_state(cfg), parallel.split(host_batch(0))
    step = parallel.train_step(cfg)
    for _ in range(2):
        before = state
        state, _ = step(before, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))
    for leaf in jax.tree.leaves(state):
        assert leaf.is_fully_replicated
        assert len(leaf.addressable_shards) == 8


@pytest.mark.slow
def test_a_batch_without_weight_changes_nothing() -> None:
    """Not even by the weight decay or the momentum of the step before."""
    cfg, parallel = step_config(), Pmapped()
    step = parallel.train_step(cfg)
    state, _ = step(parallel.init_state(cfg), parallel.split(host_batch(1)))
    before = jax.device_get(state)
    batch = host_batch(0) | {"weights": np.zeros((16, 19), np.float32)}
    after, metrics = step(state, parallel.split(batch))
    assert {name: float(metrics[name]) for name in ("loss", "grad_norm", "tokens", "bad_in_row")} == {
        "loss": 0.0,
        "grad_norm": 0.0,
        "tokens": 0.0,
        "bad_in_row": 0.0,
    }
    assert after.step == before.step + 1
    after = jax.device_get(after)._replace(step=before.step)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []

    def counted(inner: Callable) -> Callable:
        def outer(*arguments):
            traces.append(inner.__name__)
            return inner(*arguments)

        return outer

    monkeypatch.setattr(pmapped, "gradients", counted(pmapped.gradients))
    monkeypatch.setattr(pmapped, "update", counted(pmapped.update))
    _train(step_config(), 8, 1)
    once = len(traces)
    assert once >= 1
    traces.clear()
    _train(step_config(), 8, 6)
    assert len(traces) == once


def test_nothing_is_compiled_after_the_second_step(capfd, caplog: pytest.LogCaptureFixture) -> None:
    cfg, parallel = step_config(), Pmapped()
    state, step = parallel.init_state(cfg), parallel.train_step(cfg)
    for number in range(2):
        state, _ = step(state, parallel.split(host_batch(number)))
    with jax.log_compiles(), caplog.at_level("DEBUG"):
        for number in range(2, 5):
            state, _ = step(state, parallel.split(host_batch(number)))
        assert not [line for line in caplog.messages if "ompil" in line]
        jax.jit(lambda x: x + 41)(np.ones(3))
        assert [line for line in caplog.messages if "ompil" in line]  # the log does tell


@pytest.mark.slow
def test_eval_step_sums_over_devices_what_counts() -> None:
    cfg, batch = step_config(), host_batch(2)
    batch["weights"][5:] = 0  # most devices have nothing to add
    results = []
    params = jax.jit(gpt2.init_params, static_argnums=0)(cfg.model, 1)
    for n_devices in (1, 8):
        parallel = Pmapped(jax.devices()[:n_devices])
        sums = parallel.eval_step(cfg.model)(parallel.replicate(params), parallel.split(batch))
        results.append({name: float(value) for name, value in sums.items()})
    counted = {**batch, "weights": (batch["weights"] > 0).astype(np.float32)}
    tokens = counted["weights"].sum()
    expected = {"nll_sum": float(_plain_loss(cfg, params, counted)) * tokens, "tokens": tokens, "stops": 0}
    assert results[0] == pytest.approx(expected, rel=1e-5)
    assert results[1] == pytest.approx(expected, rel=1e-5)
