"""Dropout whose mask depends on the sequence, not on the device that happens to compute it."""

import jax
import jax.numpy as jnp


def row_keys(seed: int, step: jax.Array, rows_B: jax.Array) -> jax.Array:
    """One key per sequence of a global batch -> (B,) keys.

    rows_B: index of each sequence within the global batch. The same sequence gets the same key on any number of
    devices and microbatches, so a run's losses do not depend on how it is spread.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, rows_B)


def site_keys(keys_B: jax.Array | None, site: int) -> jax.Array | None:
    """Keys for one of several places that drop values of the same sequences."""
    return None if keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(keys_B, site)


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """x (B, …) with each value zeroed with probability `rate` and the others divided by 1 - rate.

    keys_B: one key per leading index; None (evaluation) returns x.
    """
    if keys_B is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys_B)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
