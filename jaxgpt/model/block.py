"""One block of GPT-2: attention and MLP, each behind a LayerNorm and added to the residual stream.

Dimensions: B batch, T position, D n_embd, H heads, K head size, F mlp, S slots of a cache.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.model.activations import ACTIVATIONS
from jaxgpt.model.attention import attend, attend_cached
from jaxgpt.model.dropout import dropout, site_keys
from jaxgpt.model.layers import LayerNorm, Linear
from jaxgpt.model_config import ModelConfig


class LayerCache(NamedTuple):
    """Keys and values of the tokens that a layer has seen, in cfg.dtype."""

    k_BHSK: jax.Array
    v_BHSK: jax.Array


class Chunk(NamedTuple):
    """Where new tokens go in a cache. at: int scalar, the slot of the first one; starts_B: each row's first slot."""

    at: jax.Array
    starts_B: jax.Array


class Attention(nn.Module):
    cfg: ModelConfig

    def _scale(self, layer: jax.Array | int) -> jax.Array | float:
        cfg = self.cfg
        scale = (cfg.n_embd // cfg.n_head) ** -0.5 if cfg.scale_attn_weights else 1.0
        return scale / (layer + 1) if cfg.scale_attn_by_inverse_layer_idx else scale

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        layer: jax.Array | int,
        segments_BT: jax.Array | None,
        keys_B: jax.Array | None,
        cache: LayerCache | None,
        chunk: Chunk | None,
    ) -> tuple[jax.Array, LayerCache | None]:
        cfg = self.cfg
        std, dtype = cfg.initializer_range, jnp.dtype(cfg.dtype)
        qkv = Linear(3 * cfg.n_embd, std, dtype, name="c_attn")(x_BTD)
        q_BTHK, k_BTHK, v_BTHK = (part.reshape(*part.shape[:-1], cfg.n_head, -1) for part in jnp.split(qkv, 3, axis=-1))
        if cache is None or chunk is None:
            out_BTHK = attend(
                q_BTHK,
                k_BTHK,
                v_BTHK,
                segments_BT,
                cfg.attn_pdrop,
                site_keys(keys_B, 0),
                self._scale(layer),
                cfg.attention,
            )
        else:
            cache = LayerCache(
                *(
                    jax.lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(new, 1, 2), chunk.at, axis=2)
                    for old, new in zip(cache, (k_BTHK, v_BTHK), strict=True)
                )
            )
            out_BTHK = attend_cached(q_BTHK, *cache, chunk.at, chunk.starts_B, self._scale(layer))
        out_BTD = out_BTHK.reshape(x_BTD.shape)
        out_BTD = Linear(cfg.n_embd, std / (2 * cfg.n_layer) ** 0.5, dtype, name="c_proj")(out_BTD)
        return dropout(out_BTD, cfg.resid_pdrop, site_keys(keys_B, 1)), cache


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
    """x_BTD and what a layer may look at -> x_BTD and, where it has one, the cache with these tokens in it.

    layer: its number, counted from 0. keys_B: of dropout. cache and chunk come together; segments_BT without them.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        layer: jax.Array | int = 0,
        segments_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        cache: LayerCache | None = None,
        chunk: Chunk | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        cfg = self.cfg
        norm = partial(LayerNorm, cfg.layer_norm_epsilon, jnp.dtype(cfg.dtype))
        attended_BTD, cache = Attention(cfg, name="attn")(
            norm(name="ln_1")(x_BTD), layer, segments_BT, keys_B, cache, chunk
        )
        x_BTD += attended_BTD
        return x_BTD + MLP(cfg, name="mlp")(norm(name="ln_2")(x_BTD), keys_B), cache
