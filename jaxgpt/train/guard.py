"""Which steps would harm the model: the decision is made on the devices, so that it costs no wait."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import GuardConfig

_KEPT = 0.98  # of the running mean and variance, a step: they look back about fifty steps
_FLAT = 1e-3  # of the mean: a standard deviation that is always allowed
_KNOWN = 50  # good steps before a loss can be too high


class Guard(NamedTuple):
    """Of the losses of good steps so far: running mean and variance; seen: how many; bad_in_row: bad steps since."""

    mean: jax.Array
    variance: jax.Array
    seen: jax.Array
    bad_in_row: jax.Array


def new_guard() -> Guard:
    return Guard(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def judge(cfg: GuardConfig, guard: Guard, loss: jax.Array, grad_norm: jax.Array) -> tuple[jax.Array, Guard]:
    """Whether the step is good (bool scalar), and what is known afterwards. A bad step's loss leaves no trace."""
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    away = loss - guard.mean
    if cfg.spike:
        # Losses that hardly vary (a repeated batch, say) would make a spike of rounding.
        variance = guard.variance + (_FLAT * guard.mean) ** 2
        high = (away > 0) & (away**2 > cfg.spike**2 * variance)
        good &= ~(high & (guard.seen >= _KNOWN))
    # The first losses get a weight of 1 / seen, so that the mean is not drawn to its beginning at 0.
    share = jnp.maximum(1 - _KEPT, 1 / (guard.seen + 1))
    new = Guard(
        guard.mean + share * away,
        (1 - share) * (guard.variance + share * away**2),
        guard.seen + 1,
        jnp.zeros((), jnp.int32),
    )
    old = guard._replace(bad_in_row=guard.bad_in_row + 1)
    return good, jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)
