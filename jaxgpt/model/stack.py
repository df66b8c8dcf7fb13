"""The stack of blocks: which layers share what, run one after the other or as a loop.

Two layouts of the same parameters. *Unrolled*: a tree per layer, named 0, 1, … as in GPT-2's checkpoints; a shared part
stands under the first layer of its group. *Stacked*, for the loop: one tree whose leaves have the layers (of a shared
part the groups) as their first dimension.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model.block import Block, Chunk, LayerCache
from jaxgpt.model.dropout import site_keys
from jaxgpt.model_config import ModelConfig

Params = dict[str, Any]
Part = Literal["attention", "mlp"]
Whole = Callable[[Params], Params]
PARTS: dict[Part, tuple[str, str]] = {"attention": ("ln_1", "attn"), "mlp": ("ln_2", "mlp")}


def as_it_is(params: Params) -> Params:
    return params


def owner(cfg: ModelConfig, part: Part, layer: int) -> int:
    """The layer under whose name this layer's part is kept: itself, or the first of its group."""
    size = cfg.n_layer // cfg.n_groups
    return layer // size * size if cfg.shares(part) else layer


def owners(cfg: ModelConfig, part: Part) -> list[int]:
    """The layers under whose names the part is kept, in the order in which they are stacked."""
    return sorted({owner(cfg, part, layer) for layer in range(cfg.n_layer)})


def layers_of(cfg: ModelConfig, name: str) -> list[int]:
    """The layers that keep parameters of this name (ln_1, attn, ln_2, mlp), in the order in which they are stacked."""
    return next(owners(cfg, part) for part, names in PARTS.items() if name in names)


def init_blocks(key: jax.Array, cfg: ModelConfig) -> Params:
    """New parameters in the layout that cfg.scan_layers asks for; the values are those of the other one."""
    x_BTD = jnp.zeros((1, 1, cfg.n_embd))
    blocks: Params = {}
    for layer in range(cfg.n_layer):
        own = [name for part, names in PARTS.items() if owner(cfg, part, layer) == layer for name in names]
        if own:
            new = Block(cfg, parent=None).init(jax.random.fold_in(key, layer), x_BTD)["params"]
            blocks[str(layer)] = {name: new[name] for name in own}
    return _stack(cfg, blocks) if cfg.scan_layers else blocks


def is_stacked(blocks: Params) -> bool:
    """Whether a model's `h` is of the stacked layout."""
    return "ln_1" in blocks


def _stack(cfg: ModelConfig, blocks: Params) -> Params:
    return {
        name: jax.tree.map(_stack_leaves, *(blocks[str(layer)][name] for layer in owners(cfg, part)))
        for part, names in PARTS.items()
        for name in names
    }


def _stack_leaves(*leaves: Any) -> Any:
    # What was read from a file stays on the host.
    return (np if isinstance(leaves[0], np.ndarray) else jnp).stack(leaves)


def _unstack(cfg: ModelConfig, blocks: Params) -> Params:
    layers: Params = {}
    for part, names in PARTS.items():
        for index, layer in enumerate(owners(cfg, part)):
            for name in names:
                layers.setdefault(str(layer), {})[name] = jax.tree.map(lambda leaf, i=index: leaf[i], blocks[name])
    return layers


def unrolled(cfg: ModelConfig, params: Params) -> Params:
    """A model's parameters with a tree per layer, from either layout."""
    return {**params, "h": _unstack(cfg, params["h"])} if is_stacked(params["h"]) else params


def stacked(cfg: ModelConfig, params: Params) -> Params:
    """A model's parameters with the layers as first dimension, from either layout."""
    return params if is_stacked(params["h"]) else {**params, "h": _stack(cfg, params["h"])}


def in_layout_of(cfg: ModelConfig, tree: Any) -> Any:
    """Any tree that holds models' parameters, such as an optimizer's state, in the layout that cfg asks for."""

    def is_params(node: Any) -> bool:
        return isinstance(node, dict) and "h" in node and "ln_f" in node

    convert = stacked if cfg.scan_layers else unrolled
    return jax.tree.map(lambda node: convert(cfg, node) if is_params(node) else node, tree, is_leaf=is_params)


def _apply(cfg: ModelConfig, params: Params, *inputs: Any) -> tuple[jax.Array, LayerCache | None]:
    # No parent: the parameters come from the stack's own tree, not from that of the module that calls.
    return cast(Any, Block(cfg, parent=None).apply({"params": params}, *inputs))


def _block(cfg: ModelConfig, whole: Whole) -> Callable[..., tuple[jax.Array, LayerCache | None]]:
    """parameters, x_BTD, layer, segments_BT, keys_B, cache, chunk -> as `Block`, with cfg.remat's policy."""

    def run(params: Params, *inputs: Any) -> tuple[jax.Array, LayerCache | None]:
        x_BTD, layer, segments_BT, keys_B, cache, chunk = inputs
        # Site 0 of the dropout is the embedding's; each block draws from its own.
        keys_B = site_keys(keys_B, layer + 1)
        return _apply(cfg, whole(params), x_BTD, layer, segments_BT, keys_B, cache, chunk)

    if cfg.remat == "none":
        return run
    policy = None if cfg.remat == "full" else getattr(jax.checkpoint_policies, cfg.remat)
    return jax.checkpoint(run, policy=policy)


def run_blocks(
    cfg: ModelConfig,
    blocks: Params,
    x_BTD: jax.Array,
    segments_BT: jax.Array | None,
    keys_B: jax.Array | None,
    whole: Whole = as_it_is,
) -> jax.Array:
    """All layers on x_BTD, in the way that the parameters' layout asks for.

    whole: one layer's parameters as they are kept -> as they are used; with remat, the outcome is not kept either.
    """
    run = _block(cfg, whole)
    if not is_stacked(blocks):
        for layer in range(cfg.n_layer):
            x_BTD, _ = run(layer_params(cfg, blocks, layer), x_BTD, layer, segments_BT, keys_B, None, None)
        return x_BTD

    size = cfg.n_layer // cfg.n_groups
    shared = {name: blocks[name] for part, names in PARTS.items() if cfg.shares(part) for name in names}
    own = {name: blocks[name] for part, names in PARTS.items() if not cfg.shares(part) for name in names}
    own_by_group = jax.tree.map(lambda leaf: leaf.reshape(cfg.n_groups, size, *leaf.shape[1:]), own)

    def one_group(x_BTD: jax.Array, group: tuple[Params, Params, jax.Array]) -> tuple[jax.Array, None]:
        shared_here, own_here, first = group

        def one_layer(x_BTD: jax.Array, inputs: tuple[Params, jax.Array]) -> tuple[jax.Array, None]:
            own_params, layer = inputs
            return run({**shared_here, **own_params}, x_BTD, layer, segments_BT, keys_B, None, None)[0], None

        return jax.lax.scan(one_layer, x_BTD, (own_here, first + jnp.arange(size)))

    return jax.lax.scan(one_group, x_BTD, (shared, own_by_group, size * jnp.arange(cfg.n_groups)))[0]


def layer_params(cfg: ModelConfig, blocks: Params, layer: int) -> Params:
    """One layer's own and shared parameters, from the unrolled layout."""
    return {name: blocks[str(owner(cfg, part, layer))][name] for part, names in PARTS.items() for name in names}


def run_blocks_cached(
    cfg: ModelConfig, blocks: Params, x_BTD: jax.Array, caches: tuple[LayerCache, ...], chunk: Chunk
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    """All layers on new tokens that see what the caches hold; for the unrolled layout only."""
    new = []
    for layer in range(cfg.n_layer):
        params = layer_params(cfg, blocks, layer)
        x_BTD, cache = _apply(cfg, params, x_BTD, layer, None, None, caches[layer], chunk)
        assert cache is not None
        new.append(cache)
    return x_BTD, tuple(new)
