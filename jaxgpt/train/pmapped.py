"""Data parallelism by `jax.pmap`: the batch is split over all devices of all hosts, each has the whole state.

The state goes in and out with `None` as its axis, so on every host it is an ordinary array, replicated over the host's
own devices: no leading device axis to strip, checkpoints are independent of the number of devices, and donation works.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import Config
from jaxgpt.model import gpt2
from jaxgpt.model.attention_choice import chosen
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.parallel import EvalStep, TrainStep, placed
from jaxgpt.train.step import AXIS, Batch, Metrics, Replica, TrainState, eval_step, gradients, init_state, update

_REPLICA = Replica(AXIS, meet=partial(jax.lax.psum, axis_name=AXIS))


class Pmapped:
    """All devices as one mapped axis."""

    def __init__(self, devices: list[jax.Device] | None = None):
        # Each host's devices must be neighbours, of which jax.devices() makes no promise.
        self.devices = sorted(devices or jax.devices(), key=lambda device: device.process_index)
        own = [device for device in self.devices if device.process_index == jax.process_index()]
        mesh = Mesh(np.array(own), (AXIS,))
        self.n_own = len(own)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        """The same values on every device of this host."""
        return jax.device_put(tree, self._replicated)

    def shapes(self, cfg: Config) -> TrainState:
        return self._placed(jax.eval_shape(partial(init_state, cfg)))

    def param_shapes(self, model: ModelConfig) -> Params:
        return self._placed(gpt2.param_shapes(model))

    def _placed(self, shapes: Any) -> Any:
        return placed(shapes, jax.tree.map(lambda _: self._replicated, shapes))

    def init_state(self, cfg: Config) -> TrainState:
        return jax.jit(partial(init_state, cfg), out_shardings=self._replicated)()

    def split(self, batch: dict[str, np.ndarray]) -> Batch:
        """As (devices of this host, rows of each, …)."""
        parts = {name: x.reshape(self.n_own, -1, *x.shape[1:]) for name, x in batch.items()}
        return jax.device_put(parts, self._split)

    def train_step(self, cfg: Config, reference: ModelConfig | None = None) -> TrainStep:
        cfg = replace(cfg, model=chosen(cfg.model, self.devices[0]))
        reference = reference and chosen(reference, self.devices[0])

        def step(state: TrainState, batch: Batch, like: Params | None) -> tuple[TrainState, Metrics]:
            others = (reference, _REPLICA, like) if reference and like else None
            sums, grads = gradients(cfg, _REPLICA, state.params, state.step, batch, others)
            return update(cfg, state, sums, grads)

        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0, None),
            out_axes=(None, None),
            devices=self.devices,
            donate_argnums=(0,),
        )
        return lambda state, batch, reference=None: mapped(state, batch, reference)

    def eval_step(self, model: ModelConfig) -> EvalStep:
        model = chosen(model, self.devices[0])
        return jax.pmap(
            partial(eval_step, model, _REPLICA),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=self.devices,
        )

    def on_host(self, tree: Any) -> Any:
        return tree
