"""Attention against PyTorch's scaled_dot_product_attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from jaxgpt.model.attention import attend

B, T, H, K = 3, 17, 5, 7


def _inputs(seed: int = 0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    return tuple(random.normal(size=(B, T, H, K)).astype(np.float32) for _ in range(3))


def _torch(q: np.ndarray, k: np.ndarray, v: np.ndarray, **how) -> np.ndarray:
    q_, k_, v_ = (torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q_, k_, v_, **how).transpose(1, 2).numpy()


def test_causal_attention_equals_pytorch() -> None:
    q, k, v = _inputs()
    np.testing.assert_allclose(attend(q, k, v), _torch(q, k, v, is_causal=True), rtol=1e-5, atol=2e-6)


def test_gradients_equal_pytorch() -> None:
    q, k, v = _inputs()
    upstream = _inputs(1)[0]
    ours = jax.grad(lambda *qkv: (attend(*qkv) * upstream).sum(), (0, 1, 2))(q, k, v)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves), is_causal=True).transpose(1, 2)
    (out * torch.from_numpy(upstream)).sum().backward()
    for grad, leaf in zip(ours, leaves, strict=True):
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_segments_equal_pytorch_with_the_mask_written_out() -> None:
    q, k, v = _inputs()
    # Rows of different packing; 0 is padding, which sees padding only.
    lengths = [[5, 9, 3], [17, 0, 0], [1, 1, 15]]
    segments = np.stack([np.repeat([1, 2, 0], row) for row in lengths]).astype(np.int32)
    mask = np.zeros((B, 1, T, T), bool)
    for row in range(B):
        for query in range(T):
            for key in range(query + 1):
                mask[row, 0, query, key] = segments[row, query] == segments[row, key]
    ours = attend(q, k, v, segments)
    np.testing.assert_allclose(ours, _torch(q, k, v, attn_mask=torch.from_numpy(mask)), rtol=1e-5, atol=2e-6)


def test_other_segments_get_no_gradient() -> None:
    q, k, v = _inputs()
    segments = np.repeat([[1, 2]], [6, 11], axis=1) * np.ones((B, 1), np.int32)
    grad_k, grad_v = jax.grad(lambda k, v: attend(q, k, v, segments)[:, 6:].sum(), (0, 1))(k, v)
    assert (np.asarray(grad_k)[:, :6] == 0).all()
    assert (np.asarray(grad_v)[:, :6] == 0).all()
    assert (np.abs(grad_v)[:, 6:] > 0).all()


def test_scores_of_any_size_stay_finite() -> None:
    q, k, v = _inputs()
    out = attend(q * 1e3, k * 1e3, v)
    np.testing.assert_allclose(out, _torch(q * 1e3, k * 1e3, v, is_causal=True), rtol=1e-4, atol=1e-4)


def test_bfloat16_inputs_give_bfloat16_with_a_float32_softmax() -> None:
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in _inputs())
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    exact = _torch(*(np.asarray(x, np.float32) for x in (q, k, v)), is_causal=True)
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, atol=2e-2)


def test_a_long_uniform_row_averages_exactly_in_bfloat16() -> None:
    # 2048 equal scores: summed in bfloat16 their exponentials would stop growing at 256.
    n = 2048
    zeros = jnp.zeros((1, n, 1, 2), jnp.bfloat16)
    out = attend(zeros, zeros, jnp.ones((1, n, 1, 2), jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, rtol=1e-2)


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_dropout_falls_on_probabilities(rate: float) -> None:
    q, k, _ = _inputs()
    identity = np.broadcast_to(np.eye(T, dtype=np.float32)[None, :, None], (B, T, H, T))  # reads the probabilities out
    keys = jax.random.split(jax.random.key(0), B)
    probs, dropped = attend(q, k, identity), attend(q, k, identity, None, rate, keys)
    kept = np.asarray(dropped) != 0
    np.testing.assert_allclose(np.asarray(dropped)[kept], np.asarray(probs)[kept] / (1 - rate), rtol=1e-6)
    causal = np.broadcast_to(np.tril(np.ones((T, T), bool))[None, :, None], kept.shape)
    assert kept[causal].mean() == pytest.approx(1 - rate, abs=0.04)
