"""The activation functions that Hugging Face's GPT-2 may be configured with."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

_ROOT, _CUBE = (2 / jnp.pi) ** 0.5, 0.044715


@jax.custom_vjp
def gelu_tanh(x: jax.Array) -> jax.Array:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) in float32 -> the dtype of x.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2.
    """
    # Written with exp here and with tanh in the backward pass, so that XLA does not find a term that both could share:
    # it would write that to memory and read it back, and on a CPU compute the rest of this again at every use.
    wide = x.astype(jnp.float32)
    return (wide / (1 + jnp.exp(-2 * _ROOT * wide * (1 + _CUBE * wide * wide)))).astype(x.dtype)


def _backward(x: jax.Array, outer: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.float32)
    tanh = jnp.tanh(_ROOT * wide * (1 + _CUBE * wide * wide))
    slope = 0.5 * (1 + tanh + wide * (1 - tanh * tanh) * _ROOT * (1 + 3 * _CUBE * wide * wide))
    return ((outer * slope).astype(x.dtype),)


gelu_tanh.defvjp(lambda x: (gelu_tanh(x), x), _backward)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}
