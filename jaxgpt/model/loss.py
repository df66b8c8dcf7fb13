"""Final projection and cross-entropy in one, with the backward pass written by hand.

Dimensions: N tokens, D n_embd, V vocabulary (padded), C tokens of a chunk, R rows of a piece of the table.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

# Most tokens whose logits exist at the same time, on a CPU and where a second model's logits exist as well. Large
# enough for full-speed matrix products, small enough that the logits of GPT-2's vocabulary (103 MB in float32) come and
# go in one buffer.
_CHUNK = 512
_LOGITS_BYTES = 1 << 28  # the same for an accelerator, where each chunk also reads and writes the table's gradient
_PIECE = 1024  # about as many rows of the table, where logits are for all tokens but not for the whole vocabulary
_Sums = tuple[jax.Array, jax.Array, jax.Array]


def _chunks(x: jax.Array, most: int = _CHUNK) -> jax.Array:
    """x (N, …) in equal parts of at most so many, the last one filled with zeros -> (parts, C, …)."""
    n_parts = -(-x.shape[0] // most)
    chunk = -(-x.shape[0] // n_parts)
    filling = ((0, n_parts * chunk - x.shape[0]), *((0, 0),) * (x.ndim - 1))
    return jnp.pad(x, filling).reshape(n_parts, chunk, *x.shape[1:])


def token_nll(hidden_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, vocab_size: int) -> jax.Array:
    """Negative log-likelihood of each target -> (N,) float32, nats.

    hidden_ND: after the last LayerNorm, in the dtype of the matrix products.
    table_VD: the tied embedding table, float32; its rows from `vocab_size` on are padding and get no probability.
    """
    return token_scores(hidden_ND, table_VD, targets_N, vocab_size)[0]


def token_scores(
    hidden_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, vocab_size: int
) -> tuple[jax.Array, jax.Array]:
    """`token_nll`, and whether no other token is likelier than the target -> (N,) bool.

    The vocabulary comes in pieces: a piece's logits stay in a processor's cache, and the table is read once.
    Source: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
    """
    n_pieces = -(-table_VD.shape[0] // _PIECE)
    rows = -(-table_VD.shape[0] // n_pieces)
    rows = min(-(-rows // 16) * 16, table_VD.shape[0])

    def piece(so_far: _Sums, number: jax.Array) -> tuple[_Sums, None]:
        max_N, sum_N, target_N = so_far
        begin = jnp.minimum(number * rows, table_VD.shape[0] - rows)
        table_RD = jax.lax.dynamic_slice_in_dim(table_VD, begin, rows).astype(hidden_ND.dtype)
        logits_NR = jnp.einsum("ND,RD->NR", hidden_ND, table_RD, preferred_element_type=jnp.float32)
        tokens_R = begin + jnp.arange(rows)
        # The last piece begins in the one before it where the table is no multiple of `rows`.
        new_R = (tokens_R >= number * rows) & (tokens_R < vocab_size)
        new_max_N = jnp.maximum(max_N, jnp.where(new_R, logits_NR, -jnp.inf).max(-1))
        exps_NR = jnp.exp(jnp.where(new_R, logits_NR - new_max_N[:, None], -jnp.inf))
        sum_N = sum_N * jnp.exp(max_N - new_max_N) + exps_NR.sum(-1)
        at_N = targets_N - begin
        here_N = jnp.take_along_axis(logits_NR, jnp.clip(at_N, 0, rows - 1)[:, None], axis=-1)[:, 0]
        return (new_max_N, sum_N, jnp.where((at_N >= 0) & (at_N < rows), here_N, target_N)), None

    nothing_N = jnp.zeros(targets_N.shape, jnp.float32)
    (max_N, sum_N, target_N), _ = jax.lax.scan(
        piece, (jnp.full_like(nothing_N, -jnp.inf), nothing_N, nothing_N), jnp.arange(n_pieces)
    )
    return jnp.log(sum_N) + max_N - target_N, target_N == max_N


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def weighted_nll(
    hidden_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, vocab_size: int
) -> jax.Array:
    """Σ nll·w over tokens -> float32 scalar. Differentiable in `hidden_ND` and `table_VD` only.

    The gradients are computed with the value, chunk by chunk, so that no logits are kept.
    """
    return (token_nll(hidden_ND, table_VD, targets_N, vocab_size) * weights_N).sum()


Gradients = tuple[jax.Array, jax.Array]


def _forward(
    hidden_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, vocab_size: int
) -> tuple[jax.Array, Gradients]:
    """The value, and the gradients as residuals."""
    in_memory = max(_CHUNK, _LOGITS_BYTES // (4 * table_VD.shape[0]))
    # On a CPU the barriers stop XLA from computing the exponentials again for each of their three uses. An accelerator
    # has them computed within the products that use them.
    cpu = partial(_with_gradients, vocab_size=vocab_size, chunk=_CHUNK, keep=jax.lax.optimization_barrier)
    other = partial(_with_gradients, vocab_size=vocab_size, chunk=in_memory, keep=lambda x: x)
    loss, grads = jax.lax.platform_dependent(hidden_ND, table_VD, targets_N, weights_N, cpu=cpu, default=other)
    return loss, grads


def _with_gradients(
    hidden_ND: jax.Array,
    table_VD: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    *,
    vocab_size: int,
    chunk: int,
    keep: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Gradients]:
    """With p = exps / sums, d nll / d logits = p - onehot(target). Dividing by the sums is done on the (C, D) sides of
    the products, and the one-hot part is a gather and a scatter, so the (C, V) array is touched no further.

    keep: what becomes of the arrays (C, V).
    """
    n_tokens, n_embd = hidden_ND.shape
    dtype, float32 = hidden_ND.dtype, jnp.float32
    rounded_VD = table_VD.astype(dtype)

    def one_chunk(grad_table_VD: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, Gradients]:
        hidden_CD, targets_C, weights_C = part
        logits_CV = jnp.einsum("CD,VD->CV", hidden_CD, rounded_VD, preferred_element_type=float32)
        logits_CV = keep(jnp.where(jnp.arange(table_VD.shape[0]) < vocab_size, logits_CV, -jnp.inf))
        max_C1 = logits_CV.max(-1, keepdims=True)
        exps_CV = keep(jnp.exp(logits_CV - max_C1))
        sums_C1 = exps_CV.sum(-1, keepdims=True)
        exps_CV = exps_CV.astype(dtype)
        target_CD = rounded_VD[targets_C].astype(float32)
        nll_C = (jnp.log(sums_C1) + max_C1)[:, 0] - (hidden_CD.astype(float32) * target_CD).sum(-1)
        scale_C1 = weights_C[:, None] / sums_C1
        mean_CD = jnp.einsum("CV,VD->CD", exps_CV, rounded_VD, preferred_element_type=float32) * scale_C1
        grad_hidden_CD = mean_CD - target_CD * weights_C[:, None]
        grad_table_VD += jnp.einsum(
            "CV,CD->VD", exps_CV, (hidden_CD * scale_C1).astype(dtype), preferred_element_type=float32
        )
        return grad_table_VD, ((nll_C * weights_C).sum(), grad_hidden_CD.astype(dtype))

    parts = tuple(_chunks(x, chunk) for x in (hidden_ND, targets_N, weights_N))
    grad_table_VD, (losses, grad_hidden) = jax.lax.scan(one_chunk, jnp.zeros(table_VD.shape, float32), parts)
    grad_table_VD = grad_table_VD.at[targets_N].add(-hidden_ND.astype(float32) * weights_N[:, None])
    return losses.sum(), (grad_hidden.reshape(-1, n_embd)[:n_tokens], grad_table_VD)


def _backward(vocab_size: int, grads: Gradients, outer: jax.Array) -> tuple[jax.Array, jax.Array, None, None]:
    grad_hidden_ND, grad_table_VD = grads
    return (grad_hidden_ND * outer).astype(grad_hidden_ND.dtype), grad_table_VD * outer, None, None


weighted_nll.defvjp(_forward, _backward)


def smoothing(
    hidden_ND: jax.Array, table_VD: jax.Array, targets_N: jax.Array, weights_N: jax.Array, vocab_size: int
) -> jax.Array:
    """What label smoothing adds to `weighted_nll` for each unit of probability that is spread -> float32 scalar.

    With a share s of the target's probability spread over all V tokens the loss is lse - (1 - s) z_t - s mean(z), so
    s (z_t - mean(z)) is added, and a mean of logits is the logit of the mean of the table's rows.
    """
    mean_D = table_VD[:vocab_size].mean(0)
    away_ND = table_VD[targets_N] - mean_D
    return ((hidden_ND.astype(jnp.float32) * away_ND).sum(-1) * weights_N).sum()


def weighted_kl(
    reference_ND: jax.Array,
    reference_table_VD: jax.Array,
    hidden_ND: jax.Array,
    table_VD: jax.Array,
    weights_N: jax.Array,
    vocab_size: int,
) -> jax.Array:
    """Σ KL(reference || model)·w over tokens -> float32 scalar, nats. Differentiable in the model's arguments.

    The backward pass computes the logits again, chunk by chunk. The two models may have hidden states of their own
    widths, but must have the same vocabulary.
    """

    def logprobs(hidden_CD: jax.Array, table_VD: jax.Array) -> jax.Array:
        table_VD = table_VD[:vocab_size].astype(hidden_CD.dtype)
        logits_CV = jnp.einsum("CD,VD->CV", hidden_CD, table_VD, preferred_element_type=jnp.float32)
        return jax.nn.log_softmax(logits_CV)

    @jax.checkpoint
    def chunk(table_VD: jax.Array, part: tuple[jax.Array, ...]) -> jax.Array:
        reference_CD, hidden_CD, weights_C = part
        reference_CV = jax.lax.stop_gradient(logprobs(reference_CD, reference_table_VD))
        kl_C = (jnp.exp(reference_CV) * (reference_CV - logprobs(hidden_CD, table_VD))).sum(-1)
        return (kl_C * weights_C).sum()

    parts = (_chunks(reference_ND), _chunks(hidden_ND), _chunks(weights_N))
    return jax.lax.scan(lambda total, part: (total + chunk(table_VD, part), None), jnp.zeros(()), parts)[0]
