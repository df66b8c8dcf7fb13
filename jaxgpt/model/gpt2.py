"""GPT-2 in Flax, with GPT-2's own parameter names and shapes, and ALBERT's two ways to make it smaller.

A parameter's path joined by dots is its name in Hugging Face's `GPT2Model` (`h.0.attn.c_attn.weight`), and its array is
the same array: Conv1D stores (in, out), as here. ALBERT-style, the tables are narrower than the model (`embed_in` and
`embed_out` lie between them) and layers share parameters (see stack.py).

Dimensions: B batch, T position, D n_embd, E width of the tables (D, or embed_dim), V vocabulary (padded).
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the code released with it;
Lan et al. 2020, "ALBERT", section 3.1; the layout of both at once follows the ALGPT-2 write-up.
"""

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgpt.model.block import Chunk, LayerCache
from jaxgpt.model.dropout import dropout, site_keys
from jaxgpt.model.layers import Embedding, LayerNorm, Linear
from jaxgpt.model.stack import Params, Whole, as_it_is, init_blocks, run_blocks, run_blocks_cached
from jaxgpt.model_config import ModelConfig

N_ROLES = 2


class GPT2(nn.Module):
    """Token ids to hidden states (`hidden`) or to logits (`__call__`).

    input_ids_BT: int, in [0, vocab_size)
    positions_BT: int, in [0, n_positions); None counts from 0 in every row
    segments_BT: int, positions of different segments do not see each other; None means one segment
    roles_BT: int, the speaker of each token, used where cfg.use_token_types or cfg.use_role_table is set
    dropout_keys_B: one key per row; None turns dropout off
    whole: as in `run_blocks`
    """

    cfg: ModelConfig
    whole: Whole = as_it_is

    def setup(self) -> None:
        cfg = self.cfg
        dtype, std, width = jnp.dtype(cfg.dtype), cfg.initializer_range, cfg.table_width
        self.wte = Embedding(cfg.padded_vocab_size, cfg.vocab_size, width, std, dtype)
        self.wpe = Embedding(cfg.n_positions, cfg.n_positions, width, std, dtype)
        if cfg.use_role_table:
            self.wre = Embedding(N_ROLES, N_ROLES, width, std, dtype)
        if cfg.factorised:
            self.embed_in = Linear(cfg.n_embd, std, dtype)
            self.embed_out = Linear(width, std, dtype)
        # Flax would compare the tree with a new one at every call, and decoding's has other leaves.
        has_blocks = self.has_variable("params", "h")
        self.h = self.get_variable("params", "h") if has_blocks else self.param("h", init_blocks, cfg)
        self.ln_f = LayerNorm(cfg.layer_norm_epsilon, dtype)
        if not cfg.tie_word_embeddings:
            self.lm_head = Embedding(cfg.padded_vocab_size, cfg.vocab_size, width, std, dtype)

    def _embed(self, input_ids_BT: jax.Array, positions_BT: jax.Array, roles_BT: jax.Array | None) -> jax.Array:
        x_BTE = self.wte(input_ids_BT) + self.wpe(positions_BT)
        if self.cfg.use_token_types and roles_BT is not None:
            x_BTE += self.wte(roles_BT)
        if self.cfg.use_role_table and roles_BT is not None:
            x_BTE += self.wre(roles_BT)
        return self.embed_in(x_BTE) if self.cfg.factorised else x_BTE

    def _last(self, x_BTD: jax.Array) -> jax.Array:
        x_BTD = self.ln_f(x_BTD)
        return self.embed_out(x_BTD) if self.cfg.factorised else x_BTD

    def hidden(
        self,
        input_ids_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        roles_BT: jax.Array | None = None,
        dropout_keys_B: jax.Array | None = None,
    ) -> jax.Array:
        """-> (B, T, E) in cfg.dtype, what the output table meets: times `output_table` it is the logits."""
        n_tokens = input_ids_BT.shape[1]
        assert n_tokens <= self.cfg.n_positions, f"{n_tokens} tokens, {self.cfg.n_positions} positions"
        if positions_BT is None:
            positions_BT = jnp.arange(n_tokens)[None]
        x_BTD = self._embed(input_ids_BT, positions_BT, roles_BT)
        x_BTD = dropout(x_BTD, self.cfg.embd_pdrop, site_keys(dropout_keys_B, 0))
        return self._last(run_blocks(self.cfg, self.h, x_BTD, segments_BT, dropout_keys_B, self.whole))

    def extend(
        self, input_ids_BT: jax.Array, roles_BT: jax.Array | None, caches: tuple[LayerCache, ...], chunk: Chunk
    ) -> tuple[jax.Array, tuple[LayerCache, ...]]:
        """The hidden states (B, T, E) of tokens that follow those in the caches, and the caches with them added.

        A token's position is its slot's distance from its row's start; the unrolled layout only.
        """
        slots_T = chunk.at + jnp.arange(input_ids_BT.shape[1])
        # Slots before a row's start and beyond the last position hold padding, which may have any position.
        positions_BT = jnp.clip(slots_T - chunk.starts_B[:, None], 0, self.cfg.n_positions - 1)
        x_BTD = self._embed(input_ids_BT, positions_BT, roles_BT)
        x_BTD, caches = run_blocks_cached(self.cfg, self.h, x_BTD, caches, chunk)
        return self._last(x_BTD), caches

    def __call__(self, input_ids_BT: jax.Array, **kwargs: jax.Array | None) -> jax.Array:
        """-> logits (B, T, vocab_size) float32, unnormalised; the padding rows of the table are cut off."""
        hidden_BTE = self.hidden(input_ids_BT, **kwargs)
        table = self.wte if self.cfg.tie_word_embeddings else self.lm_head
        return to_logits(hidden_BTE, table.weight[: self.cfg.vocab_size])


def to_logits(hidden: jax.Array, table_VE: jax.Array) -> jax.Array:
    """Hidden states (…, E) -> logits (…, V) float32, of the table's rows."""
    return jnp.einsum("...E,VE->...V", hidden, table_VE.astype(hidden.dtype), preferred_element_type=jnp.float32)


def output_table(params: Params) -> jax.Array:
    """The table (V padded, E) that turns hidden states into logits: the embedding's own, or one that is not tied."""
    return cast(jax.Array, params["lm_head" if "lm_head" in params else "wte"]["weight"])


def hidden_states(
    cfg: ModelConfig, params: Params, input_ids_BT: jax.Array, whole: Whole = as_it_is, **inputs: Any
) -> jax.Array:
    """`GPT2.hidden` of these parameters -> (B, T, E)."""
    return cast(jax.Array, GPT2(cfg, whole).apply({"params": params}, input_ids_BT, **inputs, method="hidden"))


def logits(cfg: ModelConfig, params: Params, input_ids_BT: jax.Array, **inputs: Any) -> jax.Array:
    """`GPT2.__call__` of these parameters -> (B, T, vocab_size) float32."""
    return cast(jax.Array, GPT2(cfg).apply({"params": params}, input_ids_BT, **inputs))


def extend(
    cfg: ModelConfig,
    params: Params,
    input_ids_BT: jax.Array,
    roles_BT: jax.Array | None,
    caches: tuple[LayerCache, ...],
    chunk: Chunk,
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """`GPT2.extend` of these parameters."""
    variables = {"params": params}
    return cast(Any, GPT2(cfg).apply(variables, input_ids_BT, roles_BT, caches, chunk, method="extend"))


def empty_caches(cfg: ModelConfig, rows: int, slots: int) -> tuple[LayerCache, ...]:
    """Room for `slots` tokens in each of `rows` sequences, one cache per layer."""
    shape = (rows, cfg.n_head, slots, cfg.n_embd // cfg.n_head)
    return tuple(LayerCache(*(jnp.zeros(shape, cfg.dtype) for _ in range(2))) for _ in range(cfg.n_layer))


def init_params(cfg: ModelConfig, seed: int) -> Params:
    """New float32 parameters; the same for the same seed and configuration."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return GPT2(cfg).init(jax.random.key(seed), ids, roles_BT=ids)["params"]


def param_shapes(cfg: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters, without computing any."""
    return jax.eval_shape(partial(init_params, cfg, 0))
