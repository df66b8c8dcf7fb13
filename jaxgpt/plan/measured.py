"""What this machine's processor does at most: no table knows it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Measured(NamedTuple):
    """flops_per_second: of matrix products; bandwidth: of memory, bytes/s."""

    flops_per_second: float
    bandwidth: float


def measure_cpu(dtype: str) -> Measured:
    """The best of some runs, about a second of work. dtype: of the products."""
    cpu = jax.devices("cpu")[0]
    size = 1024
    with jax.default_device(cpu):
        matrix = jnp.ones((size, size), dtype)
        array = jnp.ones(32 * 2**20, jnp.float32)
        product, copied = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
        return Measured(2 * size**3 / _seconds(product, matrix), 2 * array.nbytes / _seconds(copied, array))


def _seconds(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        function(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return best
