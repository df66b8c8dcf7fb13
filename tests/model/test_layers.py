"""GELU and the affine map against formulas in float64, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.activations import gelu_tanh
from jaxgpt.model.layers import affine

X = np.concatenate([np.linspace(-12, 12, 1009), [0.0, -1e4, 1e4, -1e18, 1e18]])


def _gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    d_inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
    with np.errstate(over="ignore"):
        sech = 1 / np.cosh(inner)
    slope = 0.5 * (1 + np.tanh(inner)) + np.where(sech == 0, 0, 0.5 * x * sech * sech * d_inner)
    return 0.5 * x * (1 + np.tanh(inner)), slope


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2**-8)])
def test_gelu_equals_its_formula_in_value_and_slope(dtype: jnp.dtype, tolerance: float) -> None:
    x = jnp.asarray(X, dtype)
    value, slope = _gelu(np.asarray(x, np.float64))
    found, backward = jax.vjp(gelu_tanh, x)
    (found_slope,) = backward(jnp.ones_like(x))
    assert found.dtype == found_slope.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float64), value, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(np.asarray(found_slope, np.float64), slope, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("leading", [(), (7,), (3, 5)])
def test_affine_is_a_product_and_a_sum(leading: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    x, weight, bias = (random.normal(size=shape).astype(np.float32) for shape in ((*leading, 11), (11, 13), (13,)))
    outer = random.normal(size=(*leading, 13)).astype(np.float32)
    found, backward = jax.vjp(affine, x, weight, bias)
    grads = backward(outer)
    rows, outer_rows = x.reshape(-1, 11).astype(np.float64), outer.reshape(-1, 13).astype(np.float64)
    np.testing.assert_allclose(found, (rows @ weight + bias).reshape(outer.shape), rtol=1e-5, atol=1e-5)
    expected = ((outer_rows @ weight.T).reshape(x.shape), rows.T @ outer_rows, outer_rows.sum(0))
    for grad, exact in zip(grads, expected, strict=True):
        np.testing.assert_allclose(grad, exact, rtol=1e-5, atol=1e-5)


def test_gradients_of_parameters_are_not_rounded_to_bfloat16() -> None:
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(997, 11)), jnp.bfloat16)
    outer = jnp.asarray(random.normal(size=(997, 13)), jnp.bfloat16)
    _, backward = jax.vjp(affine, x, jnp.ones((11, 13)), jnp.zeros(13))
    grad_x, *grads = backward(outer)
    rows, outer_rows = np.asarray(x, np.float64), np.asarray(outer, np.float64)
    assert grad_x.dtype == jnp.bfloat16
    for grad, exact in zip(grads, (rows.T @ outer_rows, outer_rows.sum(0)), strict=True):
        assert grad.dtype == jnp.float32
        np.testing.assert_allclose(grad, exact, rtol=1e-5, atol=1e-4)
