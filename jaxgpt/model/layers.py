"""The layers that GPT-2 is made of, with its parameter names: `weight` (in, out) and `bias`, float32.

Flax's own call theirs `kernel`, `scale` and `embedding`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def _normal(std: float) -> Callable[..., jax.Array]:
    return nn.initializers.normal(std)


SLICES = "weight_slices"
_FEW = 16  # rows


def times_slices(x: jax.Array, slices: tuple[jax.Array, ...], dtype: Any = None) -> jax.Array:
    """x (…, in) times a matrix (in, out) that is kept as parts (out / n, in) of its transpose -> (…, out) in
    `dtype`, by default that of x.

    Products of a few rows are bound by reading the matrix. XLA computes each on one core of a CPU; parts are
    independent of each other, so they run side by side, and rows of the transpose are read one after the other.
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) == 1 or len(rows) > _FEW:
        return jnp.concatenate(
            [jnp.einsum("...i,oi->...o", x, part, preferred_element_type=dtype) for part in slices], axis=-1
        )
    parts = [jnp.einsum("oi,ri->or", part, rows, preferred_element_type=dtype) for part in slices]
    return jnp.concatenate(parts).T.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def affine(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    """x (…, in) times weight (in, out) plus bias (out,) -> (…, out) in the dtype of x.

    The gradients of weight and bias are summed in their own dtype, float32, and the weight's comes as (in, out): by
    autodiff it would be rounded to the dtype of x, and be the transpose of what XLA's CPU backend is quick at.
    """
    return x @ weight.astype(x.dtype) + bias.astype(x.dtype)


Residuals = tuple[jax.Array, jax.Array, jax.Array]


def _affine_forward(x: jax.Array, weight: jax.Array, bias: jax.Array) -> tuple[jax.Array, Residuals]:
    return affine(x, weight, bias), (x, weight, bias)


def _affine_backward(residuals: Residuals, outer: jax.Array) -> Residuals:
    x, weight, bias = residuals
    grad_x = jnp.einsum("...o,io->...i", outer, weight.astype(x.dtype))
    leading = tuple(range(x.ndim - 1))
    over_rows = ((leading, leading), ((), ()))
    grad_weight = jax.lax.dot_general(x, outer, over_rows, preferred_element_type=weight.dtype)
    return grad_x, grad_weight, outer.astype(bias.dtype).sum(leading)


affine.defvjp(_affine_forward, _affine_backward)


class Linear(nn.Module):
    """x (…, in) -> (…, features) in `dtype`; parameters `weight` (in, features) and `bias` are float32.

    In place of `weight` there may be its SLICES for `times_slices`, in `dtype`; decoding on a CPU prepares them.
    """

    features: int
    std: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sliced = self.has_variable("params", SLICES)
        weight = None if sliced else self.param("weight", _normal(self.std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if weight is None:
            return times_slices(x, self.get_variable("params", SLICES)) + bias.astype(self.dtype)
        return affine(x.astype(self.dtype), weight, bias)


class LayerNorm(nn.Module):
    """x (…, D) scaled to mean 0 and variance 1 over D in float32, times `weight`, plus `bias` -> `dtype`."""

    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * weight + bias).astype(self.dtype)


class Embedding(nn.Module):
    """ids -> rows of a float32 table `weight` (rows, features), in `dtype`. Rows from `used_rows` on start at zero.

    Ids are not checked under jit; records.py refuses bad ones when shards are written and when they are read.
    """

    rows: int
    used_rows: int
    features: int
    std: float
    dtype: Any

    def setup(self) -> None:
        def init(key: jax.Array) -> jax.Array:
            used = _normal(self.std)(key, (self.used_rows, self.features))
            return jnp.pad(used, ((0, self.rows - self.used_rows), (0, 0)))

        self.weight = self.param("weight", init)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.weight[ids].astype(self.dtype)
