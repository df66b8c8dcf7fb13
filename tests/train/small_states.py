"""States that take no training, and what a checkpoint says of them."""

from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny import step_config

from jaxgpt.config import Config
from jaxgpt.train.checkpoint import RunState
from jaxgpt.train.guard import new_guard
from jaxgpt.train.step import TrainState, init_state

CONFIG = step_config()


def quiet(line: str) -> None:
    """For what is said where it does not matter."""


def run_state(step: int, cfg: Config = CONFIG, **changes: Any) -> RunState:
    return RunState(step, 8 * step, asdict(cfg), "abc", None, **changes)


def small(step: int, size: int = 3) -> TrainState:
    array = jnp.full((size,), float(step))
    return TrainState(jnp.int32(step), {"w": array}, {"mu": array + 0.5}, new_guard())


def small_shapes(size: int = 3) -> TrainState:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), small(0, size))


def random_state(cfg: Config, seed: int = 0) -> TrainState:
    """numpy arrays in which every number is another one, so that none can take another's place."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(init_state, cfg))
    return jax.tree.map(lambda leaf: np.asarray(1e4 * random.normal(size=leaf.shape)).astype(leaf.dtype), shapes)


def check_same(state: TrainState, expected: TrainState) -> None:
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, copy in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == copy.dtype
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(copy))
