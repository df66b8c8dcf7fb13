"""Every way of computing attention against PyTorch's in float64, at lengths around the edges of blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from jaxgpt.model import attention, blocked_attention
from jaxgpt.model.blocked_attention import attend_in_blocks

B, H, K, SCALE = 2, 3, 8, 0.5
Attend = Callable[..., jax.Array]


def _all_at_once(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> jax.Array:
    swapped = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(attention._all_at_once(*swapped, segments, 1.0), 1, 2)


def _forward(*inputs: jax.Array) -> jax.Array:
    return blocked_attention._forward(*inputs)[0]


def _inputs(n_tokens: int) -> tuple[np.ndarray, ...]:
    """q (scaled), k, v, and the gradient of the result."""
    random = np.random.default_rng(n_tokens)
    q, k, v, outer = (random.normal(size=(B, H, n_tokens, K)).astype(np.float32) for _ in range(4))
    return q * np.float32(SCALE), k, v, outer


def _segments(n_tokens: int, kind: str) -> np.ndarray | None:
    if kind == "none":
        return None
    if kind == "all padding":
        return np.zeros((B, n_tokens), np.int32)
    return np.sort(np.random.default_rng(1).integers(0, 4, (B, n_tokens)), axis=1).astype(np.int32)


def _expected(inputs: tuple[np.ndarray, ...], segments: np.ndarray | None) -> list[np.ndarray]:
    """The result and the gradients of q, k, v, in float64."""
    q, k, v = (torch.from_numpy(x).double().requires_grad_() for x in inputs[:3])
    n_tokens = q.shape[2]
    visible = np.tril(np.ones((n_tokens, n_tokens), bool))[None, None]
    if segments is not None:
        visible = visible & (segments[:, None, :, None] == segments[:, None, None, :])
    out = scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(visible), scale=1.0)
    out.backward(torch.from_numpy(inputs[3]).double())
    return [out.detach().numpy(), *(leaf.grad.numpy() for leaf in (q, k, v))]


@pytest.mark.parametrize("attend", [_all_at_once, _forward, blocked_attention._head_by_head])
@pytest.mark.parametrize("n_tokens", [1, 127, 128, 129, 300, 520])
@pytest.mark.parametrize("kind", ["none", "several", "all padding"])
def test_values(attend: Attend, n_tokens: int, kind: str) -> None:
    inputs, segments = _inputs(n_tokens), _segments(n_tokens, kind)
    ours = jax.jit(attend)(*inputs[:3], segments)
    np.testing.assert_allclose(ours, _expected(inputs, segments)[0], rtol=1e-4, atol=5e-6)


@pytest.mark.parametrize("n_tokens", [1, 127, 128, 129, 300, 520, 1100])
@pytest.mark.parametrize("kind", ["none", "several", "all padding"])
def test_gradients(n_tokens: int, kind: str) -> None:
    inputs, segments = _inputs(n_tokens), _segments(n_tokens, kind)

    @jax.jit
    def pulled(q: jax.Array, k: jax.Array, v: jax.Array, outer: jax.Array) -> tuple[jax.Array, ...]:
        out, pull_back = jax.vjp(lambda *qkv: attend_in_blocks(*qkv, segments), q, k, v)
        return out, *pull_back(outer)

    for ours, expected in zip(pulled(*inputs), _expected(inputs, segments), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-5)


def test_bfloat16_is_as_near_as_its_scores_allow() -> None:
    inputs = _inputs(300)
    rounded = tuple(jnp.asarray(x, jnp.bfloat16) for x in inputs)
    out, pull_back = jax.vjp(lambda *qkv: attend_in_blocks(*qkv, None), *rounded[:3])
    exact = _expected(tuple(np.asarray(x, np.float32) for x in rounded), None)
    for ours, expected in zip((out, *pull_back(rounded[3])), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.asarray(ours, np.float64) - expected
        # Scores of up to 8 are rounded by 1 / 64 at most, which is what a probability is then wrong by.
        assert np.abs(error).max() <= np.abs(expected).max() / 64
        assert np.sqrt((error**2).mean()) <= 0.01 * np.sqrt((expected**2).mean())


def test_nothing_is_kept_for_each_pair_of_tokens() -> None:
    n_tokens = 1024
    q, k, v, _ = _inputs(n_tokens)
    _, pull_back = jax.vjp(lambda *qkv: attend_in_blocks(*qkv, None), q, k, v)
    kept = jax.tree.leaves(pull_back)
    assert kept
    assert max(array.size for array in kept) <= q.size
