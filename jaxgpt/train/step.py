"""The training and evaluation steps: pure functions of one replica, written for `parallel.py` to map.

Dimensions: B sequences of this replica, T positions, N = B * T tokens, E width of the tables.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgpt.config import Config
from jaxgpt.model.dropout import row_keys
from jaxgpt.model.gpt2 import hidden_states, init_params, output_table
from jaxgpt.model.loss import token_nll, weighted_nll
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.optimizer import learning_rate_schedule, make_optimizer

AXIS = "data"  # the mapped axis over which gradients and sums meet
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that changes in training. step: int32 scalar, optimizer steps done."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def init_state(cfg: Config) -> TrainState:
    params = init_params(cfg.model, cfg.seed)
    optimizer = make_optimizer(cfg.optimizer, cfg.train.max_steps)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def _hidden_rows(model: ModelConfig, params: Params, batch: Batch, dropout_keys_B: jax.Array | None) -> jax.Array:
    """The last hidden states of a batch, one row per token."""
    hidden_BTE = hidden_states(
        model,
        params,
        batch["input_ids"],
        positions_BT=batch.get("positions"),
        segments_BT=batch.get("segments"),
        roles_BT=batch.get("roles"),
        dropout_keys_B=dropout_keys_B,
    )
    return hidden_BTE.reshape(-1, model.table_width)


def train_step(cfg: Config, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """One optimizer step on this replica's share of a global batch.

    The loss is Σ nll·w / Σ w over all replicas and microbatches: sums travel, the division happens once.
    metrics: loss (nats per unit of weight), grad_norm (before clipping), learning_rate, tokens (of weight above 0).
    """
    dropping = any((cfg.model.resid_pdrop, cfg.model.embd_pdrop, cfg.model.attn_pdrop))

    def weighted_sum(params: Params, part: Batch) -> jax.Array:
        keys_B = row_keys(cfg.seed, state.step, part["rows"]) if dropping else None
        targets_N, weights_N = part["targets"].reshape(-1), part["weights"].reshape(-1)
        hidden_NE = _hidden_rows(cfg.model, params, part, keys_B)
        return weighted_nll(hidden_NE, output_table(params), targets_N, weights_N, cfg.model.vocab_size)

    def add_microbatch(sums: tuple[jax.Array, Params], part: Batch) -> tuple[tuple[jax.Array, Params], None]:
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(weighted_sum)(state.params, part)), None

    if cfg.train.microbatches == 1:
        loss_sum, grads = jax.value_and_grad(weighted_sum)(state.params, batch)
    else:
        parts = {name: x.reshape(cfg.train.microbatches, -1, *x.shape[1:]) for name, x in batch.items()}
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        (loss_sum, grads), _ = jax.lax.scan(add_microbatch, zeros, parts)

    local = (loss_sum, batch["weights"].sum(), (batch["weights"] > 0).sum(), grads)
    loss_sum, weight_sum, tokens, grads = jax.lax.psum(local, AXIS)
    weight_sum = jnp.maximum(weight_sum, jnp.finfo(jnp.float32).tiny)  # a batch without targets changes nothing
    grads = jax.tree.map(lambda grad: grad / weight_sum, grads)

    optimizer = make_optimizer(cfg.optimizer, cfg.train.max_steps)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
        "loss": loss_sum / weight_sum,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": learning_rate_schedule(cfg.optimizer, cfg.train.max_steps)(state.step),
        "tokens": tokens,
    }
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state), metrics


def eval_step(model: ModelConfig, params: Params, batch: Batch) -> Metrics:
    """Sums over all replicas: nll_sum (nats) and tokens, both over targets of weight above 0, each counted once."""
    counts = batch["weights"].reshape(-1) > 0
    hidden_NE = _hidden_rows(model, params, batch, None)
    nll_N = token_nll(hidden_NE, output_table(params), batch["targets"].reshape(-1), model.vocab_size)
    nll = jnp.where(counts, nll_N, 0.0)
    return jax.lax.psum({"nll_sum": nll.sum(), "tokens": counts.sum()}, AXIS)
