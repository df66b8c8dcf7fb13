"""The fused loss against log-softmax written out: in float64 for values, by autodiff for gradients; what is added to it
against PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxgpt.model.loss import _with_gradients, smoothing, token_nll, token_scores, weighted_kl, weighted_nll

D, VOCAB, ROWS = 13, 131, 256


def _inputs(n: int, seed: int = 0) -> tuple[jax.Array, ...]:
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, D)).astype(np.float32)
    table = random.normal(size=(ROWS, D)).astype(np.float32)
    targets = random.integers(0, VOCAB, n, dtype=np.int32)
    weights = (random.uniform(0, 2.5, n) * (random.uniform(size=n) > 0.3)).astype(np.float32)
    return tuple(jnp.asarray(x) for x in (hidden, table, targets, weights))


def _nll_float64(hidden, table, targets, vocab: int = VOCAB) -> np.ndarray:
    logits = np.asarray(hidden, np.float64) @ np.asarray(table, np.float64)[:vocab].T
    top = logits.max(-1)
    return np.log(np.exp(logits - top[:, None]).sum(-1)) + top - logits[np.arange(len(logits)), np.asarray(targets)]


def _plain(hidden, table, targets, weights) -> jax.Array:
    logprobs = jax.nn.log_softmax(hidden @ table[:VOCAB].T)
    return -(jnp.take_along_axis(logprobs, targets[:, None], -1)[:, 0] * weights).sum()


_value_and_grads = jax.jit(jax.value_and_grad(weighted_nll, (0, 1)), static_argnums=4)
_plain_grads = jax.jit(jax.grad(_plain, (0, 1)))


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1100])
def test_values_and_gradients_at_the_edges_of_chunks(n: int) -> None:
    hidden, table, targets, weights = _inputs(n)
    weights = weights.at[0].set(0.7)
    expected = _nll_float64(hidden, table, targets)
    np.testing.assert_allclose(token_nll(hidden, table, targets, VOCAB), expected, rtol=2e-5, atol=2e-5)
    value, (grad_hidden, grad_table) = _value_and_grads(hidden, table, targets, weights, VOCAB)
    assert value == pytest.approx((expected * np.asarray(weights, np.float64)).sum(), rel=1e-5)
    # Without differentiation another path computes the value.
    assert weighted_nll(hidden, table, targets, weights, VOCAB) == pytest.approx(float(value), rel=1e-6)
    plain_hidden, plain_table = _plain_grads(hidden, table, targets, weights)
    np.testing.assert_allclose(grad_hidden, plain_hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad_table, plain_table, rtol=1e-4, atol=1e-4)
    assert (np.asarray(grad_table)[VOCAB:] == 0).all()
    assert (np.asarray(grad_hidden)[np.asarray(weights) == 0] == 0).all()


@pytest.mark.parametrize("chunk", [100, 512, 5000])
def test_an_accelerators_way_gives_the_same(chunk: int) -> None:
    inputs = _inputs(1100)
    value, grads = _value_and_grads(*inputs, VOCAB)
    other = jax.jit(partial(_with_gradients, vocab_size=VOCAB, chunk=chunk, keep=lambda x: x))
    other_value, other_grads = other(*inputs)
    assert other_value == pytest.approx(float(value), rel=1e-6)
    for grad, other_grad in zip(grads, other_grads, strict=True):
        np.testing.assert_allclose(grad, other_grad, rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_by_the_vocabulary_for_each_token() -> None:
    rows = 4096

    def temporary(n_tokens: int) -> int:
        shapes = (
            jax.ShapeDtypeStruct((n_tokens, D), jnp.float32),
            jax.ShapeDtypeStruct((rows, D), jnp.float32),
            jax.ShapeDtypeStruct((n_tokens,), jnp.int32),
            jax.ShapeDtypeStruct((n_tokens,), jnp.float32),
        )
        analysis = _value_and_grads.lower(*shapes, rows).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    few, many = 1024, 8192
    logits_of_the_others = 4 * rows * (many - few)
    assert temporary(many) - temporary(few) < 0.05 * logits_of_the_others


def test_gradients_equal_finite_differences_in_float64() -> None:
    hidden, table, targets, weights = _inputs(29)
    grads = _value_and_grads(hidden, table, targets, weights, VOCAB)[1]
    random = np.random.default_rng(9)
    base = [np.asarray(x, np.float64) for x in (hidden, table)]
    for index, grad in enumerate(grads):
        direction = random.normal(size=grad.shape)
        ends = []
        for sign in (1, -1):
            moved = list(base)
            moved[index] = base[index] + sign * 1e-6 * direction
            ends.append((_nll_float64(*moved, targets) * np.asarray(weights, np.float64)).sum())
        assert (direction * np.asarray(grad)).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_all_zero_weights_give_zero_and_zero_gradients() -> None:
    hidden, table, targets, _ = _inputs(600)
    value, grads = _value_and_grads(hidden, table, targets, jnp.zeros(600), VOCAB)
    assert value == 0
    for grad in grads:
        assert (np.asarray(grad) == 0).all()


def test_extreme_logits_stay_finite_and_right() -> None:
    hidden, table, targets, weights = _inputs(600)
    hidden *= 1e4 / np.abs(np.asarray(hidden @ table.T)).max()
    expected = _nll_float64(hidden, table, targets)
    assert expected.max() > 1e4
    np.testing.assert_allclose(token_nll(hidden, table, targets, VOCAB), expected, rtol=1e-5, atol=1e-2)
    value, grads = _value_and_grads(hidden, table, targets, weights, VOCAB)
    assert value == pytest.approx((expected * np.asarray(weights)).sum(), rel=1e-5)
    for grad, plain in zip(grads, _plain_grads(hidden, table, targets, weights), strict=True):
        assert np.isfinite(grad).all()
        np.testing.assert_allclose(grad, plain, rtol=1e-2, atol=1e-3 * float(np.abs(plain).max()))


@pytest.mark.parametrize(
    ("rows", "vocab"),
    [(1024, 1024), (1040, 1040), (1041, 1030), (2048, 2047), (2049, 2049), (3333, 3210)],
)
def test_pieces_of_the_vocabulary_count_every_token_once(rows: int, vocab: int) -> None:
    random = np.random.default_rng(rows)
    hidden, table = (random.normal(size=(n, D)).astype(np.float32) for n in (97, rows))
    logits = hidden.astype(np.float64) @ table[:vocab].T.astype(np.float64)
    targets = np.where(np.arange(97) % 2, logits.argmax(-1), np.linspace(0, vocab - 1, 97).astype(np.int64))
    nll, likeliest = token_scores(hidden, table, jnp.asarray(targets, jnp.int32), vocab)
    np.testing.assert_allclose(nll, _nll_float64(hidden, table, targets, vocab), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(likeliest, targets == logits.argmax(-1))


def test_a_token_as_likely_as_the_target_does_not_take_its_place() -> None:
    _, likeliest = token_scores(jnp.ones((2, D)), jnp.ones((1500, D)), jnp.asarray([3, 1400]), 1500)
    assert likeliest.all()
    _, likeliest = token_scores(jnp.ones((2, D)), jnp.ones((1500, D)).at[9].add(1e-6), jnp.asarray([3, 9]), 1500)
    assert likeliest.tolist() == [False, True]


@pytest.mark.parametrize("vocab", [128, 131, 255])
def test_uniform_logits_have_the_vocabulary_as_perplexity(vocab: int) -> None:
    rows = -(-vocab // 128) * 128
    nll = token_nll(jnp.zeros((37, D)), jnp.ones((rows, D)), jnp.arange(37), vocab)
    np.testing.assert_allclose(np.exp(np.asarray(nll, np.float64)), vocab, rtol=1e-6)


def test_bfloat16_hidden_gets_bfloat16_gradients_close_to_float32() -> None:
    hidden, table, targets, weights = _inputs(700)
    half = hidden.astype(jnp.bfloat16)
    value, (grad_hidden, grad_table) = _value_and_grads(half, table, targets, weights, VOCAB)
    assert (value.dtype, grad_hidden.dtype, grad_table.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    exact_value, exact = jax.value_and_grad(_plain, (0, 1))(hidden, table, targets, weights)
    assert value == pytest.approx(float(exact_value), rel=2e-3)
    for grad, plain in zip((grad_hidden, grad_table), exact, strict=True):
        error = np.linalg.norm(np.asarray(grad, np.float32) - plain) / np.linalg.norm(plain)
        assert error < 2e-2


def test_an_outer_factor_scales_the_gradients() -> None:
    inputs = _inputs(530)
    once = jax.grad(lambda h, t: weighted_nll(h, t, *inputs[2:], VOCAB), (0, 1))(*inputs[:2])
    outer = jax.grad(lambda h, t: 2 * weighted_nll(h, t, *inputs[2:], VOCAB) ** 1 - 5, (0, 1))(*inputs[:2])
    for one, two in zip(once, outer, strict=True):
        np.testing.assert_allclose(two, 2 * np.asarray(one), rtol=1e-6)


def test_tokens_that_fill_the_last_chunk_add_no_gradient() -> None:
    """1024 tokens fill chunks exactly; cut in 513 and 511 they leave places that something must fill."""
    hidden, table, targets, weights = _inputs(1024)
    grad = jax.grad(weighted_nll, 1)
    parts = [slice(0, 513), slice(513, 1024)]
    total = sum(np.asarray(grad(hidden[p], table, targets[p], weights[p], VOCAB)) for p in parts)
    np.testing.assert_allclose(total, grad(hidden, table, targets, weights, VOCAB), rtol=1e-4, atol=1e-4)
    # Filled places have target 0 and a hidden state of zeros: row 0 of the table is where they would show.
    away = jnp.where(targets == 0, 1, targets)
    row_0 = np.asarray(grad(hidden[:513], table, away[:513], weights[:513], VOCAB))[0]
    plain = np.asarray(jax.grad(_plain, 1)(hidden[:513], table, away[:513], weights[:513]))[0]
    np.testing.assert_allclose(row_0, plain, rtol=1e-4, atol=1e-5)


def _leaf(x: jax.Array) -> torch.Tensor:
    return torch.tensor(np.asarray(x, np.float64), requires_grad=True)


@pytest.mark.parametrize("n", [1, 513])
@pytest.mark.parametrize("share", [0.02, 0.6])
def test_label_smoothing_is_pytorchs(n: int, share: float) -> None:
    hidden, table, targets, weights = _inputs(n, seed=3)
    weights = weights.at[0].set(0.7)

    def loss(hidden: jax.Array, table: jax.Array) -> jax.Array:
        inputs = (hidden, table, targets, weights, VOCAB)
        return weighted_nll(*inputs) + share * smoothing(*inputs)

    value, (grad_hidden, grad_table) = jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, table)
    theirs, their_table = _leaf(hidden), _leaf(table)
    nll = torch.nn.functional.cross_entropy(
        theirs @ their_table[:VOCAB].T,
        torch.tensor(np.asarray(targets)).long(),
        label_smoothing=share,
        reduction="none",
    )
    expected = (nll * torch.tensor(np.asarray(weights))).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(grad_hidden, theirs.grad, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(grad_table, their_table.grad, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("n", [1, 512, 513])
def test_kl_is_pytorchs(n: int) -> None:
    """The reference has a width of its own."""
    hidden, table, _, weights = _inputs(n, seed=4)
    weights = weights.at[0].set(0.7)
    random = np.random.default_rng(5)
    reference, reference_table = (jnp.asarray(random.normal(size=(rows, 7)), jnp.float32) for rows in (n, ROWS))
    value_and_grads = jax.jit(jax.value_and_grad(weighted_kl, (0, 1, 2, 3)), static_argnums=5)
    value, grads = value_and_grads(reference, reference_table, hidden, table, weights, VOCAB)
    theirs, their_table = _leaf(hidden), _leaf(table)
    p, q = (
        torch.log_softmax(h @ t[:VOCAB].T, -1)
        for h, t in ((_leaf(reference), _leaf(reference_table)), (theirs, their_table))
    )
    kl = torch.nn.functional.kl_div(q, p.detach(), log_target=True, reduction="none").sum(-1)
    expected = (kl * torch.tensor(np.asarray(weights))).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    assert not np.asarray(grads[0]).any()
    assert not np.asarray(grads[1]).any()
    np.testing.assert_allclose(grads[2], theirs.grad, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(grads[3], their_table.grad, rtol=1e-4, atol=2e-4)


def test_kl_of_a_model_from_itself_is_zero_and_pulls_nowhere() -> None:
    hidden, table, _, weights = _inputs(600, seed=6)
    value, (grad_hidden, grad_table) = jax.value_and_grad(weighted_kl, (2, 3))(
        hidden, table, hidden, table, weights, VOCAB
    )
    assert value == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(grad_hidden, 0, atol=1e-5)
    np.testing.assert_allclose(grad_table, 0, atol=1e-4)


def test_kl_of_extreme_logits_is_finite_and_right() -> None:
    hidden, table, _, weights = _inputs(600, seed=7)
    other = jnp.asarray(np.random.default_rng(8).normal(size=hidden.shape), jnp.float32)
    value, grad = jax.value_and_grad(weighted_kl, 2)(300 * other, table, 300 * hidden, table, weights, VOCAB)
    p, q = (
        np.asarray(torch.log_softmax(torch.tensor(np.asarray(300 * h @ table[:VOCAB].T, np.float64)), -1))
        for h in (other, hidden)
    )
    assert value == pytest.approx(((np.exp(p) * (p - q)).sum(-1) * np.asarray(weights)).sum(), rel=1e-4)
    assert np.isfinite(grad).all()
