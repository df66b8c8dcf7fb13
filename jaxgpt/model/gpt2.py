"""GPT-2 in Flax, with GPT-2's own parameter names and shapes.

A parameter's path joined by dots is its name in Hugging Face's `GPT2Model` (`h.0.attn.c_attn.weight`), and its array is
the same array: Conv1D stores (in, out), as here.

Dimensions: B batch, T position, D n_embd, H heads, K head size, F mlp, V vocabulary (padded), L layers.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the code released with it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.config import ModelConfig
from jaxgpt.model.attention import attend
from jaxgpt.model.dropout import dropout, site_keys

Params = dict[str, Any]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
}


def _normal(std: float) -> Callable[..., jax.Array]:
    return nn.initializers.normal(std)


class Linear(nn.Module):
    """x (…, in) -> (…, features) in `dtype`; parameters `weight` (in, features) and `bias` are float32."""

    features: int
    std: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", _normal(self.std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x @ weight.astype(self.dtype) + bias.astype(self.dtype)


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
    """ids -> rows of a float32 table `weight` (rows, D), in `dtype`. Rows from `used_rows` on start at zero.

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


class Attention(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segments_BT: jax.Array | None, keys_B: jax.Array | None) -> jax.Array:
        cfg = self.cfg
        std, dtype = cfg.initializer_range, jnp.dtype(cfg.dtype)
        qkv = Linear(3 * cfg.n_embd, std, dtype, name="c_attn")(x_BTD)
        q_BTHK, k_BTHK, v_BTHK = (part.reshape(*part.shape[:-1], cfg.n_head, -1) for part in jnp.split(qkv, 3, axis=-1))
        out_BTHK = attend(q_BTHK, k_BTHK, v_BTHK, segments_BT, cfg.attn_pdrop, site_keys(keys_B, 0))
        out_BTD = out_BTHK.reshape(x_BTD.shape)
        out_BTD = Linear(cfg.n_embd, std / (2 * cfg.n_layer) ** 0.5, dtype, name="c_proj")(out_BTD)
        return dropout(out_BTD, cfg.resid_pdrop, site_keys(keys_B, 1))


class MLP(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        cfg = self.cfg
        std, dtype = cfg.initializer_range, jnp.dtype(cfg.dtype)
        hidden_BTF = ACTIVATIONS[cfg.activation_function](Linear(cfg.mlp_width, std, dtype, name="c_fc")(x_BTD))
        out_BTD = Linear(cfg.n_embd, std / (2 * cfg.n_layer) ** 0.5, dtype, name="c_proj")(hidden_BTF)
        return dropout(out_BTD, cfg.resid_pdrop, site_keys(keys_B, 2))


class Block(nn.Module):
    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segments_BT: jax.Array | None, keys_B: jax.Array | None) -> jax.Array:
        cfg = self.cfg
        norm = partial(LayerNorm, cfg.layer_norm_epsilon, jnp.dtype(cfg.dtype))
        x_BTD += Attention(cfg, name="attn")(norm(name="ln_1")(x_BTD), segments_BT, keys_B)
        return x_BTD + MLP(cfg, name="mlp")(norm(name="ln_2")(x_BTD), keys_B)


class Blocks(nn.Module):
    """The stack of blocks, named 0, 1, … as in GPT-2's checkpoints."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segments_BT: jax.Array | None, keys_B: jax.Array | None) -> jax.Array:
        for layer in range(self.cfg.n_layer):
            # Site 0 is the embedding's; each block draws from its own.
            x_BTD = Block(self.cfg, name=str(layer))(x_BTD, segments_BT, site_keys(keys_B, layer + 1))
        return x_BTD


class GPT2(nn.Module):
    """Token ids to hidden states (`hidden`) or to logits (`__call__`).

    input_ids_BT: int, in [0, vocab_size)
    positions_BT: int, in [0, n_positions); None counts from 0 in every row
    segments_BT: int, positions of different segments do not see each other; None means one segment
    roles_BT: int, the speaker of each token, used where cfg.use_token_types is set
    dropout_keys_B: one key per row; None turns dropout off
    """

    cfg: ModelConfig

    def setup(self) -> None:
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        self.wte = Embedding(cfg.padded_vocab_size, cfg.vocab_size, cfg.n_embd, cfg.initializer_range, dtype)
        self.wpe = Embedding(cfg.n_positions, cfg.n_positions, cfg.n_embd, cfg.initializer_range, dtype)
        self.h = Blocks(cfg)
        self.ln_f = LayerNorm(cfg.layer_norm_epsilon, dtype)

    def hidden(
        self,
        input_ids_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        roles_BT: jax.Array | None = None,
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """-> (B, T, D) in cfg.dtype, after the last LayerNorm; times the table `wte` they are logits."""
        n_tokens = input_ids_BT.shape[1]
        assert n_tokens <= self.cfg.n_positions, f"{n_tokens} tokens, {self.cfg.n_positions} positions"
        if positions_BT is None:
            positions_BT = jnp.arange(n_tokens)[None]
        x_BTD = self.wte(input_ids_BT) + self.wpe(positions_BT)
        if self.cfg.use_token_types and roles_BT is not None:
            x_BTD += self.wte(roles_BT)
        x_BTD = dropout(x_BTD, self.cfg.embd_pdrop, site_keys(dropout_keys_B, 0))
        return self.ln_f(self.h(x_BTD, segments_BT, dropout_keys_B))

    def __call__(self, input_ids_BT: jax.Array, **kwargs: jax.Array | None) -> jax.Array:
        """-> logits (B, T, vocab_size) float32, unnormalised; the padding rows of the table are cut off."""
        hidden_BTD = self.hidden(input_ids_BT, **kwargs)
        table_VD = self.wte.weight[: self.cfg.vocab_size].astype(hidden_BTD.dtype)
        return jnp.einsum("BTD,VD->BTV", hidden_BTD, table_VD, preferred_element_type=jnp.float32)


def hidden_states(cfg: ModelConfig, params: Params, input_ids_BT: jax.Array, **inputs: Any) -> jax.Array:
    """`GPT2.hidden` of these parameters -> (B, T, D)."""
    return cast(jax.Array, GPT2(cfg).apply({"params": params}, input_ids_BT, **inputs, method="hidden"))


def logits(cfg: ModelConfig, params: Params, input_ids_BT: jax.Array, **inputs: Any) -> jax.Array:
    """`GPT2.__call__` of these parameters -> (B, T, vocab_size) float32."""
    return cast(jax.Array, GPT2(cfg).apply({"params": params}, input_ids_BT, **inputs))


def init_params(cfg: ModelConfig, seed: int) -> Params:
    """New float32 parameters; the same for the same seed and configuration."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return GPT2(cfg).init(jax.random.key(seed), ids)["params"]
