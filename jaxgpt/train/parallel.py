"""How a step maps over the devices of all hosts, in one of two ways: the same numbers, another place for the state."""

from typing import Any, Protocol

import jax
import numpy as np

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.step import Batch, Metrics, TrainState


class TrainStep(Protocol):
    def __call__(
        self, state: TrainState, batch: Batch, reference: Params | None = None
    ) -> tuple[TrainState, Metrics]: ...


class EvalStep(Protocol):
    def __call__(self, params: Params, batch: Batch) -> Metrics: ...


class Parallel(Protocol):
    """devices: of all hosts; n_own: how many of them are this host's."""

    devices: list[jax.Device]
    n_own: int

    def shapes(self, cfg: Config) -> TrainState:
        """Shapes, dtypes and places of a run's state."""
        ...

    def param_shapes(self, model: ModelConfig) -> Params:
        """Shapes, dtypes and places of any model's parameters."""
        ...

    def init_state(self, cfg: Config) -> TrainState:
        """A new run's state, computed where it will live."""
        ...

    def split(self, batch: dict[str, np.ndarray]) -> Batch:
        """This host's rows of a batch (b, …) onto its devices."""
        ...

    def train_step(self, cfg: Config, reference: ModelConfig | None = None) -> TrainStep:
        """Compiled on its first call; the state that goes in is used up. reference: of loss.kl_model."""
        ...

    def eval_step(self, model: ModelConfig) -> EvalStep: ...

    def on_host(self, tree: Any) -> Any:
        """The tree as the first host can write it. Every host must call this; what the others get is not whole."""
        ...


def check_batch(n_devices: int, batch_size: int, microbatches: int = 1) -> None:
    """UserError where the devices, or the microbatches on each, don't divide a batch."""
    parts = n_devices * microbatches
    if batch_size % parts:
        below = batch_size // parts * parts
        tries = f"{below} or {below + parts}" if below else str(parts)
        by = f"{n_devices} devices" + (f" times {microbatches} microbatches" if microbatches > 1 else "")
        raise UserError(f"train.batch_size {batch_size} is not divisible by {by}; try {tries}")


def placed(shapes: Any, places: Any) -> Any:
    """Shapes with a place each. places: a tree of shardings like `shapes`."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )
