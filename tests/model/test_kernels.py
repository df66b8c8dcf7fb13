"""Kernels of others beside the plain attention, in value and gradient; and which one a device gets."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.model import attention, kernels
from jaxgpt.model.attention import attend
from jaxgpt.model.attention_choice import choose, chosen, explain
from jaxgpt.model_config import ModelConfig


def _tpu(kind: str) -> SimpleNamespace:
    return SimpleNamespace(platform="tpu", device_kind=kind)


def _gpu(capability: str = "9.0") -> SimpleNamespace:
    return SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability=capability)


CPU = SimpleNamespace(platform="cpu", device_kind="cpu")
BF16 = ModelConfig(dtype="bfloat16")


def _plain(q_BTHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    scores = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) * q_BTHK.shape[-1] ** -0.5
    visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if segments_BT is not None:
        visible &= segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(jnp.where(visible, scores, -jnp.inf)), v_BTHK)


def _inputs(n_tokens: int, packed: bool) -> tuple[list[jax.Array], jax.Array | None]:
    random = np.random.default_rng(n_tokens)
    arrays = [jnp.asarray(random.normal(size=(2, n_tokens, 3, 64)), jnp.float32) for _ in range(4)]
    segments = jnp.asarray(np.sort(random.integers(0, 5, (2, n_tokens)), axis=1), jnp.int32)
    return arrays, segments.at[1].set(0) if packed else None  # a row that is all padding, too


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n_tokens", [128, 384])
def test_splash_equals_the_plain_one(n_tokens: int, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    (q, k, v, outer), segments = _inputs(n_tokens, packed)
    by_splash = lambda *inputs: kernels.attend_by_splash(*inputs, interpret=True)  # noqa: E731
    monkeypatch.setattr(attention, "attend_by_splash", by_splash)
    monkeypatch.setattr(attention, "attend_in_blocks", None)
    found, backward = jax.vjp(lambda q, k, v: attend(q, k, v, segments, kernel="splash"), q, k, v)
    expected, plain_backward = jax.vjp(lambda q, k, v: _plain(q, k, v, segments), q, k, v)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for grad, plain in zip(backward(outer), plain_backward(outer), strict=True):
        np.testing.assert_allclose(grad, plain, atol=1e-5)


def test_rows_that_splash_does_not_take_go_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend_by_splash", None)
    (q, k, v, _), segments = _inputs(131, packed=True)
    np.testing.assert_allclose(attend(q, k, v, segments, kernel="splash"), _plain(q, k, v, segments), atol=2e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_what_cudnn_is_asked_for_equals_the_plain_one(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: JAX's other implementation of the same function answers in its place."""
    asked = []

    def by_xla(*inputs: jax.Array, implementation: str, **options: object) -> jax.Array:
        asked.append(implementation)
        return attention_of_jax(*inputs, implementation="xla", **options)

    attention_of_jax = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    (q, k, v, outer), segments = _inputs(37, packed)
    found, backward = jax.vjp(lambda q, k, v: attend(q, k, v, segments, kernel="cudnn"), q, k, v)
    expected, plain_backward = jax.vjp(lambda q, k, v: _plain(q, k, v, segments), q, k, v)
    assert asked == ["cudnn"]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for grad, plain in zip(backward(outer), plain_backward(outer), strict=True):
        np.testing.assert_allclose(grad, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "cfg", "kernel", "reason"),
    [
        (_tpu("TPU v3"), BF16, "blocks", "needs a TPU v4 or later, and this is a TPU v3"),
        (_tpu("TPU v2"), BF16, "blocks", "TPU v2"),
        (_tpu("TPU v5"), BF16, "splash", "TPU v5"),
        (_tpu("TPU v4"), ModelConfig(), "splash", "TPU v4"),
        (_gpu(), BF16, "cudnn", "H100"),
        (_gpu(), ModelConfig(), "blocks", "needs model.dtype bfloat16, and this is float32"),
        (_gpu("7.5"), BF16, "blocks", "needs compute capability 8.0"),
        (_gpu("10.0"), BF16, "cudnn", "H100"),
        (_gpu(), ModelConfig(n_embd=256, n_head=1, dtype="bfloat16"), "blocks", "up to 128, and these are of 256"),
        (_gpu(), ModelConfig(n_embd=60, n_head=5, dtype="bfloat16"), "blocks", "multiple of 8 up to 128"),
        (CPU, BF16, "blocks", "no kernel for a cpu"),
    ],
)
def test_the_choice_and_its_reason(device: jax.Device, cfg: ModelConfig, kernel: str, reason: str) -> None:
    choice = choose(cfg, device)
    assert choice.kernel == chosen(cfg, device).attention == kernel
    assert reason in choice.reason
    assert explain(cfg, device, dropout=False) == f"attention: {kernel} ({choice.reason})"
    assert "model.attn_pdrop is 0.1: 0 would be quicker" in explain(cfg, device, dropout=True)


def test_a_wish_is_granted_or_refused_but_never_changed() -> None:
    for device, wish in ((_gpu(), "blocks"), (_tpu("TPU v6 lite"), "splash"), (_gpu(), "cudnn")):
        cfg = ModelConfig(dtype="bfloat16", attention=wish)
        assert choose(cfg, device) == (wish, "as model.attention says")
    for device, wish in ((CPU, "splash"), (_gpu(), "splash"), (_tpu("TPU v3"), "splash"), (_tpu("TPU v4"), "cudnn")):
        with pytest.raises(UserError, match=f"model.attention is {wish}, but .*; set it to auto or blocks"):
            choose(ModelConfig(attention=wish, dtype="bfloat16"), device)
