"""How a step maps over devices: `jax.pmap`, the batch split over the mapped axis, the state the same everywhere.

The state goes in and out with `None` as its axis, so it is an ordinary replicated array: no leading device axis to
strip, checkpoints are independent of the number of devices, and donation works.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.step import AXIS, Batch, Metrics, TrainState, eval_step, init_state, train_step


class Parallel:
    """All local devices as one mapped axis."""

    def __init__(self, devices: list[jax.Device] | None = None):
        self.devices = devices or jax.local_devices()
        mesh = Mesh(np.array(self.devices), (AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec(AXIS))

    def __len__(self) -> int:
        return len(self.devices)

    def check_batch(self, batch_size: int, microbatches: int = 1) -> None:
        """UserError where the devices, or the microbatches on each, don't divide a batch."""
        parts = len(self) * microbatches
        if batch_size % parts:
            below = batch_size // parts * parts
            tries = f"{below} or {below + parts}" if below else str(parts)
            by = f"{len(self)} devices" + (f" times {microbatches} microbatches" if microbatches > 1 else "")
            raise UserError(f"train.batch_size {batch_size} is not divisible by {by}; try {tries}")

    def replicate(self, tree: Any) -> Any:
        """The same values on every device."""
        return jax.device_put(tree, self._replicated)

    def init_state(self, cfg: Config) -> TrainState:
        """A new run's state, computed where it will live."""
        return jax.jit(partial(init_state, cfg), out_shardings=self._replicated)()

    def abstract_state(self, cfg: Config) -> TrainState:
        """Shapes, dtypes and places of the state, for restoring one."""

        def place(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._replicated)

        return jax.tree.map(place, jax.eval_shape(partial(init_state, cfg)))

    def split(self, batch: dict[str, np.ndarray]) -> Batch:
        """Host arrays (B, …) onto the devices as (devices, B / devices, …)."""
        parts = {name: x.reshape(len(self), -1, *x.shape[1:]) for name, x in batch.items()}
        return jax.device_put(parts, self._split)

    def train_step(self, cfg: Config) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
        """Compiled on its first call; the state that goes in is used up."""
        return jax.pmap(
            partial(train_step, cfg),
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=self.devices,
            donate_argnums=(0,),
        )

    def eval_step(self, model: ModelConfig) -> Callable[[Params, Batch], Metrics]:
        return jax.pmap(
            partial(eval_step, model), axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=self.devices
        )
