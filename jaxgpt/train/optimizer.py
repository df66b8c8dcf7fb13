"""The optimizers, through Optax: clip, find a direction, decay the weights, go as far as the learning rate says.

The learning rate is a number of this step, so it leaves no trace in the optimizer's state. Layers in one stack get the
update that they would get one by one, whatever the optimizer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgpt.model.stack import Params
from jaxgpt.optimizer_config import OptimizerConfig
from jaxgpt.train.adam import scale_by_adam

Path = tuple[jax.tree_util.DictKey, ...]


def make_optimizer(
    cfg: OptimizerConfig, learning_rate: jax.Array | float, good: jax.Array | bool = True
) -> optax.GradientTransformation:
    """Gradients -> changes of the parameters, for one step with this learning rate; the rate may be traced.

    The state's structure depends on cfg only. `update` needs the parameters. Weight decay is decoupled and scaled by
    the learning rate (Loshchilov and Hutter 2019, in PyTorch's form).
    good: false, possibly traced, leaves the state as it is; the changes are then of no use.
    """
    return optax.chain(
        _clip(cfg.max_grad_norm),
        _direction(cfg, good),
        optax.add_decayed_weights(cfg.weight_decay, decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _clip(most: float) -> optax.GradientTransformation:
    """To a global norm of at most so much. Optax's divides, for which XLA keeps a copy of all gradients."""

    def scale(grads: Params, _: Params | None) -> Params:
        factor = jnp.minimum(1.0, most / optax.tree.norm(grads))
        return jax.tree.map(lambda grad: grad * factor, grads)

    return optax.stateless(scale)


def decay_mask(params: Params) -> Params:
    """True for matrices and embedding tables; biases and LayerNorms are not decayed."""

    # By name and not by dimensions: stacked over layers, a bias is a matrix, too.
    def decays(path: Path, param: jax.Array) -> bool:
        names = [key.key for key in path]
        return names[-1] == "weight" and not any(name.startswith("ln_") for name in names)

    return jax.tree_util.tree_map_with_path(decays, params)


def _direction(cfg: OptimizerConfig, good: jax.Array | bool) -> optax.GradientTransformation:
    adam = scale_by_adam(cfg.b1, cfg.b2, cfg.eps, good)
    match cfg.name:
        case "adamw":
            return adam
        case "lion":
            return _only_if(good, optax.scale_by_lion(cfg.b1, cfg.b2))
        case "adafactor":
            return _only_if(good, _adafactor(cfg))
        case "muon":
            return optax.partition({"muon": _only_if(good, _muon(cfg)), "adamw": adam}, _muon_labels)


def _only_if(good: jax.Array | bool, inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, whose state stays as it is where `good` is false."""

    def update(grads: Params, state: optax.OptState, params: Params | None = None) -> tuple[Params, optax.OptState]:
        updates, new = inner.update(grads, state, params)
        return updates, jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)

    return optax.GradientTransformation(inner.init, update)


def _muon_labels(params: Params) -> Params:
    """Which of the two moves each leaf: muon the matrices of the blocks, adamw all else."""
    labels = jax.tree.map(lambda _: "adamw", params)
    # Whatever decays within the blocks is a matrix.
    return {**labels, "h": jax.tree.map(lambda decays: "muon" if decays else "adamw", decay_mask(params)["h"])}


def _muon(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """Momentum with its singular values made equal: Jordan et al. 2024, "Muon".

    Changes have a root mean square of about 0.2, as AdamW's do, so its learning rate and decay fit (Liu et al. 2025,
    "Muon is Scalable for LLM Training").
    """
    # The last two dimensions: Optax would take a stack of matrices for something else, and stacked biases for a matrix.
    matrix = optax.contrib.MuonDimensionNumbers(-2, -1)
    return optax.chain(
        optax.contrib.scale_by_muon(
            beta=cfg.b1,
            eps=cfg.eps,
            weight_dimension_numbers=lambda updates: jax.tree.map(lambda _: matrix, updates),
        ),
        optax.stateless_with_tree_map(lambda update, _: update * 0.2 * max(update.shape[-2:]) ** 0.5),
    )


def _adafactor(cfg: OptimizerConfig) -> optax.GradientTransformation:
    """A matrix's second moments as the product of those of its rows and columns: Shazeer and Stern 2018, "Adafactor".

    As Zhai et al. 2021 ("Scaling Vision Transformers") have it: steps are not scaled by the parameters' size, so
    AdamW's learning rate fits; the decay of the second moment is 1 - t^-0.8, but never more than b2.
    """

    def decay(steps_done: jax.Array, most: float) -> jax.Array:
        return jnp.minimum(1 - (steps_done + 1.0) ** -0.8, most)

    direction = _each_matrix(optax.scale_by_factored_rms(decay_rate=cfg.b2, decay_rate_fn=decay))
    return optax.chain(direction, optax.ema(cfg.b1)) if cfg.b1 else direction


def _each_matrix(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` for each leaf on its own, and for each layer of a stack on its own.

    The state is a tree like the parameters with inner's states as leaves, which unstacks as the parameters do.
    """

    def init_leaf(path: Path, param: jax.Array) -> Any:
        return (jax.vmap(inner.init) if _in_stack(path) else inner.init)(param)

    def update_leaf(path: Path, grad: jax.Array, state: Any, param: jax.Array) -> tuple[jax.Array, Any]:
        return (jax.vmap(inner.update) if _in_stack(path) else inner.update)(grad, state, param)

    def init(params: Params) -> Params:
        return jax.tree_util.tree_map_with_path(init_leaf, params)

    def update(grads: Params, state: Params, params: Params | None = None) -> tuple[Params, Params]:
        pairs = jax.tree_util.tree_map_with_path(update_leaf, grads, state, params)
        return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], grads, pairs) for i in range(2))

    return optax.GradientTransformation(init, update)


def _in_stack(path: Path) -> bool:
    return path[0].key == "h" and not path[1].key.isdigit()
