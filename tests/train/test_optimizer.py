"""The schedule by its formula, the decay mask by names, and AdamW with clipping against PyTorch's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxgpt.config import OptimizerConfig
from jaxgpt.model.gpt2 import init_params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.optimizer import decay_mask, learning_rate_schedule, make_optimizer


def _rate(cfg: OptimizerConfig, max_steps: int, step: int) -> float:
    """Of the step with this number, counted from 1."""
    if step < cfg.warmup_steps:
        return cfg.learning_rate * step / cfg.warmup_steps
    done = (step - cfg.warmup_steps) / (max_steps - cfg.warmup_steps)
    ratio = cfg.final_learning_rate_ratio
    return cfg.learning_rate * (ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * done)))


@pytest.mark.parametrize(("warmup", "ratio"), [(10, 0.1), (1, 0.0), (0, 0.3)])
def test_schedule_is_the_closed_formula_at_every_step(warmup: int, ratio: float) -> None:
    cfg = OptimizerConfig(learning_rate=3e-3, warmup_steps=warmup, final_learning_rate_ratio=ratio)
    schedule = learning_rate_schedule(cfg, 47)
    for step in range(1, 48):
        assert float(schedule(step - 1)) == pytest.approx(_rate(cfg, 47, step), rel=1e-5, abs=1e-10)


def test_schedule_at_the_steps_that_have_a_name() -> None:
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=10), 110)
    assert float(schedule(0)) == pytest.approx(0.1)  # the first step
    assert float(schedule(9)) == pytest.approx(1.0)  # the end of the warm-up
    assert float(schedule(59)) == pytest.approx(0.55)  # half way down
    assert float(schedule(109)) == pytest.approx(0.1)  # the last step


def test_a_run_that_is_all_warmup_ends_at_the_peak() -> None:
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=5), 5)
    assert [float(schedule(step)) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_decay_mask_leaves_out_biases_and_layernorms() -> None:
    shapes = jax.eval_shape(lambda: init_params(ModelConfig(vocab_size=131, n_embd=6, n_head=2, n_layer=2), 0))
    for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(shapes)):
        names = [entry.key for entry in path]
        undecayed = names[-1] == "bias" or any(name.startswith("ln_") for name in names)
        assert decayed is not undecayed, names


def test_steps_equal_pytorchs_adamw_with_clipping() -> None:
    max_steps = 20
    cfg = OptimizerConfig(
        learning_rate=0.05, warmup_steps=4, b1=0.8, b2=0.93, eps=1e-6, weight_decay=0.3, max_grad_norm=1.5
    )
    random = np.random.default_rng(0)
    start = {"weight": random.normal(size=(5, 7)), "bias": random.normal(size=(7,))}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}
    theirs = {name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in start.items()}
    groups = [{"params": [theirs["weight"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.93), eps=1e-6)
    optimizer = make_optimizer(cfg, max_steps)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    norms = []
    for step in range(1, max_steps + 1):
        grads = {name: random.normal(size=value.shape) * step / 20 for name, value in start.items()}
        updates, state = update({name: jnp.asarray(g, jnp.float32) for name, g in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
        for name, param in theirs.items():
            param.grad = torch.tensor(grads[name], dtype=torch.float32)
        norms.append(float(torch.nn.utils.clip_grad_norm_(theirs.values(), 1.5)))
        for group in adamw.param_groups:
            group["lr"] = _rate(cfg, max_steps, step)
        adamw.step()
        for name, param in theirs.items():
            np.testing.assert_allclose(params[name], param.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert min(norms) < 1.5 < max(norms)  # some steps were clipped, some were not
