"""The training and evaluation steps: pure functions of one replica, written for `parallel.py` to map.

Dimensions: B sequences of this replica, T positions, N = B * T tokens, E width of the tables.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgpt.config import Config
from jaxgpt.model.dropout import row_keys
from jaxgpt.model.gpt2 import hidden_states, init_params, output_table
from jaxgpt.model.loss import smoothing, token_nll, weighted_kl, weighted_nll
from jaxgpt.model.stack import Params, Whole, as_it_is
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.guard import Guard, judge, new_guard
from jaxgpt.train.optimizer import make_optimizer
from jaxgpt.train.schedules import make_schedule

AXIS = "data"  # the mapped axis over which gradients and sums meet
STOPS = "stops"  # of a batch and of the sums: how many hosts ask for an end
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that changes in training. step: int32 scalar, steps done, bad ones too."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    guard: Guard


class Replica(NamedTuple):
    """What a replica knows of the others.

    axes: over which sums meet; outer, block: parameters as they are kept -> as they are used, of all but the blocks and
    of one block; meet: gradients of this replica -> those of all, in the form in which the parameters are kept.
    """

    axes: str | tuple[str, ...]
    meet: Callable[[Params], Params]
    outer: Whole = as_it_is
    block: Whole = as_it_is


class Sums(NamedTuple):
    """Over all replicas. loss, kl: nats times weight; weight: of all targets; tokens: targets of weight above 0."""

    loss: jax.Array
    kl: jax.Array
    weight: jax.Array
    tokens: jax.Array
    stops: jax.Array


def init_state(cfg: Config) -> TrainState:
    params = init_params(cfg.model, cfg.seed)
    optimizer = make_optimizer(cfg.optimizer, 0.0)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), new_guard())


def _hidden_rows(
    model: ModelConfig, params: Params, batch: Batch, dropout_keys_B: jax.Array | None, block: Whole
) -> jax.Array:
    """The last hidden states of a batch, one row per token."""
    hidden_BTE = hidden_states(
        model,
        params,
        batch["input_ids"],
        block,
        positions_BT=batch.get("positions"),
        segments_BT=batch.get("segments"),
        roles_BT=batch.get("roles"),
        dropout_keys_B=dropout_keys_B,
    )
    return hidden_BTE.reshape(-1, model.table_width)


def gradients(
    cfg: Config,
    replica: Replica,
    params: Params,
    step: jax.Array,
    batch: Batch,
    reference: tuple[ModelConfig, Replica, Params] | None = None,
) -> tuple[Sums, Params]:
    """Σ over all replicas and microbatches of the loss times weight, and its gradients.

    reference: of loss.kl_model, its configuration and parameters.
    """
    model = cfg.model
    dropping = cfg.train.dropout and any((model.resid_pdrop, model.embd_pdrop, model.attn_pdrop))
    batch = {**batch}
    stops = batch.pop(STOPS, jnp.zeros((), jnp.int32)).sum()

    def weighted_sum(params: Params, part: Batch) -> tuple[jax.Array, jax.Array]:
        params = replica.outer(params)
        keys_B = row_keys(cfg.seed, step, part["rows"]) if dropping else None
        targets_N, weights_N = part["targets"].reshape(-1), part["weights"].reshape(-1)
        hidden_NE, table_VE = _hidden_rows(model, params, part, keys_B, replica.block), output_table(params)
        loss = weighted_nll(hidden_NE, table_VE, targets_N, weights_N, model.vocab_size)
        if cfg.loss.label_smoothing:
            smooth = smoothing(hidden_NE, table_VE, targets_N, weights_N, model.vocab_size)
            loss += cfg.loss.label_smoothing * smooth
        kl = jnp.zeros(())
        if reference:
            like_model, like, like_params = reference
            like_params = like.outer(like_params)
            like_NE = jax.lax.stop_gradient(_hidden_rows(like_model, like_params, part, None, like.block))
            kl = weighted_kl(like_NE, output_table(like_params), hidden_NE, table_VE, weights_N, model.vocab_size)
        return loss + cfg.loss.kl_weight * kl, kl

    of_part = jax.value_and_grad(weighted_sum, has_aux=True)
    if cfg.train.microbatches == 1:
        (loss, kl), grads = of_part(params, batch)
    else:
        parts = {name: x.reshape(cfg.train.microbatches, -1, *x.shape[1:]) for name, x in batch.items()}
        zeros = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
        ((loss, kl), grads), _ = jax.lax.scan(
            lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(params, part)), None), zeros, parts
        )
    sums = Sums(loss, kl, batch["weights"].sum(), (batch["weights"] > 0).sum(), stops)
    return jax.lax.psum(sums, replica.axes), replica.meet(grads)


def update(cfg: Config, state: TrainState, sums: Sums, grads: Params) -> tuple[TrainState, Metrics]:
    """One optimizer step with the sums of a global batch; a bad step changes no parameter.

    The loss is Σ nll·w / Σ w over all replicas and microbatches: sums travel, the division happens once.
    metrics: loss (nats per unit of weight), kl where there is a reference, grad_norm (before clipping), learning_rate,
    tokens (of weight above 0), bad_in_row (bad steps up to this one, 0 if it was good), stops.
    """
    empty = sums.weight == 0
    weight = jnp.where(empty, 1.0, sums.weight)
    per_weight = 1 / weight
    grads = jax.tree.map(lambda grad: grad * per_weight, grads)
    loss, grad_norm = sums.loss / weight, optax.tree.norm(grads)
    good, guard = judge(cfg.guard, state.guard, loss, grad_norm)
    # A batch without targets is not bad, but it changes nothing and tells nothing.
    guard = jax.tree.map(lambda new, old: jnp.where(empty, old, new), guard, state.guard)
    good &= ~empty
    learning_rate = make_schedule(cfg.optimizer, cfg.train.max_steps, cfg.model.n_embd)(state.step)
    optimizer = make_optimizer(cfg.optimizer, learning_rate, good)
    changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda old, change: jnp.where(good, old + change, old), state.params, changes)
    metrics = {
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "tokens": sums.tokens,
        "bad_in_row": guard.bad_in_row,
        STOPS: sums.stops,
    }
    if cfg.loss.kl_weight:
        metrics["kl"] = sums.kl / weight
    return TrainState(state.step + 1, params, opt_state, guard), metrics


def eval_step(model: ModelConfig, replica: Replica, params: Params, batch: Batch) -> Metrics:
    """Sums over all replicas: nll_sum (nats) and tokens, both over targets of weight above 0, each counted once."""
    params = replica.outer(params)
    counts = batch["weights"].reshape(-1) > 0
    hidden_NE = _hidden_rows(model, params, batch, None, replica.block)
    nll_N = token_nll(hidden_NE, output_table(params), batch["targets"].reshape(-1), model.vocab_size)
    nll = jnp.where(counts, nll_N, 0.0)
    stops = batch.get(STOPS, jnp.zeros((), jnp.int32)).sum()
    return jax.lax.psum({"nll_sum": nll.sum(), "tokens": counts.sum(), STOPS: stops}, replica.axes)
