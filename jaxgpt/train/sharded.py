"""Fully sharded data parallelism: parameters, gradients and optimizer state are cut up over the devices.

A layer's matrices are put together where it runs and are dropped again (ZeRO-3), and a gradient arrives summed and cut
up: that is the transpose of putting together. The optimizer works on arrays that XLA partitions.

The devices are a mesh of replicas times shards, with the number of shards that leaves the least on each device: GPT-2
xl is 1600 wide, which 64 devices divide and 128 don't, so on 128 two replicas of 64 shards each share the work.
Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.core import unfreeze
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.model import gpt2
from jaxgpt.model.attention_choice import chosen
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.parallel import EvalStep, TrainStep, placed
from jaxgpt.train.step import Batch, Metrics, Replica, TrainState, eval_step, gradients, init_state, update

_REPLICAS, _SHARDS = "replicas", "shards"
_AXES = (_REPLICAS, _SHARDS)
_EVERYWHERE = PartitionSpec()


class Sharded:
    """The devices as a mesh for models of one configuration (`model` decides the number of shards)."""

    def __init__(self, model: ModelConfig, devices: list[jax.Device] | None = None):
        self.devices = devices or jax.devices()
        n = len(self.devices)
        self.n_own = sum(device.process_index == jax.process_index() for device in self.devices)
        divisors = [count for count in range(1, n + 1) if n % count == 0]
        shapes = gpt2.param_shapes(model)
        self._n_shards = min(divisors, key=lambda count: (_bytes_per_device(shapes, count), count))
        if n > 1 and self._n_shards == 1:
            raise UserError(
                f"parallel.mode is fsdp, but no matrix of the model (n_embd {model.n_embd}, n_layer {model.n_layer}) "
                f"can be cut into equal parts for {n} devices; set parallel.mode to pmap, or change model.n_embd"
            )
        self._mesh = Mesh(np.array(self.devices).reshape(-1, self._n_shards), _AXES)
        self._rows = NamedSharding(self._mesh, PartitionSpec(_AXES))

    def shapes(self, cfg: Config) -> TrainState:
        return self._placed(jax.eval_shape(partial(init_state, cfg)))

    def param_shapes(self, model: ModelConfig) -> Params:
        return self._placed(gpt2.param_shapes(model))

    def _placed(self, shapes: Any) -> Any:
        return placed(shapes, self._places(shapes))

    def _places(self, shapes: Any) -> Any:
        return jax.tree.map(partial(NamedSharding, self._mesh), _specs(shapes, self._n_shards))

    def init_state(self, cfg: Config) -> TrainState:
        init = partial(init_state, cfg)
        return jax.jit(init, out_shardings=self._places(jax.eval_shape(init)))()

    def split(self, batch: dict[str, np.ndarray]) -> Batch:
        return {name: jax.make_array_from_process_local_data(self._rows, x) for name, x in batch.items()}

    def _replica(self, model: ModelConfig) -> Replica:
        """How one shard of a model's parameters relates to the others."""
        shapes = gpt2.param_shapes(model)
        specs = _specs(shapes, self._n_shards)
        outer = {name: spec for name, spec in specs.items() if name != "h"}
        one_layer = gpt2.param_shapes(replace(model, n_layer=1, n_groups=1, scan_layers=False))["h"]["0"]
        of_layer = _specs(one_layer, self._n_shards)

        def put_outer_together(params: Params) -> Params:
            return {**params, **_together({name: params[name] for name in outer}, outer)}

        def meet(grads: Params) -> Params:
            return jax.tree.map(
                lambda grad, spec: jax.lax.psum(grad, _AXES if spec == _EVERYWHERE else _REPLICAS), grads, specs
            )

        return Replica(_AXES, meet, put_outer_together, lambda params: _together(params, of_layer))

    def train_step(self, cfg: Config, reference: ModelConfig | None = None) -> TrainStep:
        cfg = replace(cfg, model=chosen(cfg.model, self.devices[0]))
        reference = reference and chosen(reference, self.devices[0])
        own, shapes = self._replica(cfg.model), jax.eval_shape(partial(init_state, cfg))
        specs = _specs(shapes.params, self._n_shards)
        like_specs = _specs(gpt2.param_shapes(reference), self._n_shards) if reference else None
        other = self._replica(reference) if reference else None

        def of_replica(params: Params, step: jax.Array, batch: Batch, like: Params | None) -> Any:
            others = (reference, other, like) if reference and other and like else None
            return gradients(cfg, own, params, step, batch, others)

        def step(state: TrainState, batch: Batch, like: Params | None) -> tuple[TrainState, Metrics]:
            mapped = jax.shard_map(
                of_replica,
                mesh=self._mesh,
                in_specs=(specs, _EVERYWHERE, PartitionSpec(_AXES), like_specs),
                out_specs=(_EVERYWHERE, specs),
                check_vma=False,
            )
            sums, grads = mapped(state.params, state.step, batch, like)
            return update(cfg, state, sums, grads)

        everywhere = NamedSharding(self._mesh, _EVERYWHERE)
        compiled = jax.jit(step, donate_argnums=0, out_shardings=(self._places(shapes), everywhere))
        return lambda state, batch, reference=None: compiled(state, batch, reference)

    def eval_step(self, model: ModelConfig) -> EvalStep:
        model = chosen(model, self.devices[0])
        mapped = jax.shard_map(
            partial(eval_step, model, self._replica(model)),
            mesh=self._mesh,
            in_specs=(_specs(gpt2.param_shapes(model), self._n_shards), PartitionSpec(_AXES)),
            out_specs=_EVERYWHERE,
            check_vma=False,
        )
        return jax.jit(mapped)

    def on_host(self, tree: Any) -> Any:
        if jax.process_count() == 1:
            return tree
        first = jax.process_index() == 0

        def gather(leaf: jax.Array) -> Any:
            # One leaf after the other, so that a host has one whole array more than it keeps.
            whole = multihost_utils.process_allgather(leaf, tiled=True)
            return whole if first else None

        return jax.tree.map(gather, tree)


def _specs(shapes: Any, n_shards: int) -> Any:
    """How each leaf of a tree is cut up: matrices along their first dimension that can be, the rest not at all."""

    def spec(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        # Of layers in one stack the first dimension is the layer, over which the loop goes.
        first = 1 if _in_stack(path) else 0
        if n_shards == 1 or len(leaf.shape) - first < 2:
            return _EVERYWHERE
        axis = next((axis for axis in range(first, len(leaf.shape)) if leaf.shape[axis] % n_shards == 0), None)
        return _EVERYWHERE if axis is None else PartitionSpec(*[None] * axis, _SHARDS)

    return jax.tree_util.tree_map_with_path(spec, shapes)


def _in_stack(path: tuple[Any, ...]) -> bool:
    names = [getattr(key, "key", None) for key in path]
    return "h" in names and not str(names[names.index("h") + 1]).isdigit()


def _bytes_per_device(shapes: Params, n_shards: int) -> int:
    sizes = jax.tree.map(
        lambda leaf, spec: leaf.size // (1 if spec == _EVERYWHERE else n_shards), shapes, _specs(shapes, n_shards)
    )
    return sum(jax.tree.leaves(sizes))


def _together(params: Params, specs: Params) -> Params:
    """Whole arrays of the shards; its transpose sums gradients and cuts them up."""

    def together(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        if spec == _EVERYWHERE:
            return leaf
        return jax.lax.all_gather(leaf, _SHARDS, axis=len(spec) - 1, tiled=True)

    return jax.tree.map(together, unfreeze(params), specs)
