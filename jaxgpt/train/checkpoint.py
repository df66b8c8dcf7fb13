"""Checkpoints through Orbax: written in the background, renamed when whole, kept by three rules."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from jaxgpt.config import CheckpointConfig
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params, in_layout_of
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.step import TrainState

FOLDER = "checkpoints"
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class RunState:
    """What belongs to a checkpoint beside arrays.

    position: rows of the shuffled data sequence that have been trained on; config: the run's configuration; data: hash
    of the manifest; dialogue_format: None for documents; wandb_id: of the run at Weights & Biases.
    """

    step: int
    position: int
    config: dict[str, Any]
    data: str
    dialogue_format: str | None
    wandb_id: str | None = None


class Checkpoints:
    """The checkpoints of one run. Use as a context: leaving it waits until the last one is on the disk."""

    def __init__(self, run: Path, cfg: CheckpointConfig):
        self._run = run
        # Orbax logs every failed write with a traceback per thread, and then raises it as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._manager = ocp.CheckpointManager(
            (run / FOLDER).absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(
                    [
                        managers.LatestN(cfg.keep_last),
                        managers.EveryNSeconds(int(cfg.keep_every_hours * 3600)),
                        # Sorted descending: the policy keeps the end of the list, the lowest losses.
                        managers.BestN(
                            get_metric_fn=_valid_loss,
                            reverse=True,
                            n=cfg.keep_best,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                best_fn=_valid_loss,  # without it Orbax does not store the metrics
                best_mode="min",
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,  # what a killed save left behind is as large as a checkpoint
            ),
        )

    def save(self, state: TrainState, run_state: RunState, valid_loss: float | None = None) -> None:
        """Copies the state to the host and writes it in the background; a step that is saved already is left."""
        if run_state.step in self._manager.all_steps():
            return
        self._manager.save(
            run_state.step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
                run=ocp.args.JsonSave(asdict(run_state)),
            ),
            metrics=None if valid_loss is None else {"valid_loss": valid_loss},
        )

    def wait(self) -> None:
        """Returns when every checkpoint that was asked for is on the disk."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of one checkpoint, placed and laid out as the shapes in `like` are."""

        def read(like: TrainState) -> TrainState:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(like.params),
                    optimizer=ocp.args.StandardRestore({"step": like.step, "opt_state": like.opt_state}),
                ),
            )
            return TrainState(restored.optimizer["step"], restored.params, restored.optimizer["opt_state"])

        return _in_layout_of(like, read, saved_model_config(self._run, step))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()


def _valid_loss(metrics: dict[str, float]) -> float:
    return metrics["valid_loss"]


def steps(run: Path) -> list[int]:
    """Steps of the run's whole checkpoints, ascending."""
    found = (entry.parent.parent for entry in (run / FOLDER).glob("*/run/metadata"))
    return sorted(int(entry.name) for entry in found if entry.name.isdigit() and (entry / "params").is_dir())


def read_run_state(run: Path, step: int) -> RunState:
    return RunState(**json.loads((run / FOLDER / str(step) / "run" / "metadata").read_text(encoding="utf-8")))


def saved_model_config(run: Path, step: int) -> ModelConfig:
    """The model as it was configured when this checkpoint was written."""
    return ModelConfig(**read_run_state(run, step).config["model"])


def valid_loss(run: Path, step: int) -> float | None:
    """Nats per token with which the checkpoint was saved; None where it was not evaluated."""
    metrics = run / FOLDER / str(step) / "metrics" / "metrics"
    return _valid_loss(json.loads(metrics.read_text(encoding="utf-8"))) if metrics.is_file() else None


def best_step(run: Path) -> int:
    """The checkpoint with the lowest validation loss, or the newest where none was evaluated."""
    done = steps(run)
    if not done:
        raise UserError(f"{run} has no checkpoint yet; train it first with `jaxgpt train --output {run}`")
    losses = {step: loss for step in done if (loss := valid_loss(run, step)) is not None}
    return min(losses, key=losses.__getitem__) if losses else done[-1]


def restore_params(run: Path, step: int, like: Params) -> Params:
    """The parameters of one checkpoint, placed and laid out as the shapes in `like` are."""

    def read(like: Params) -> Params:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore((run / FOLDER / str(step) / "params").absolute(), like)

    return _in_layout_of(like, read, saved_model_config(run, step))


def _in_layout_of(like: Tree, read: Callable[[Tree], Tree], saved: ModelConfig) -> Tree:
    """What `read` gives, with layers stacked or not as in `like`, though the checkpoint has them the other way.

    like: shapes, all of one sharding where the layouts differ.
    """
    stored = jax.eval_shape(partial(in_layout_of, saved), like)
    if jax.tree.structure(stored) == jax.tree.structure(like):  # type: ignore[operator]
        return read(like)
    sharding = jax.tree.leaves(like)[0].sharding
    wanted = replace(saved, scan_layers=not saved.scan_layers)
    convert = jax.jit(partial(in_layout_of, wanted), out_shardings=sharding)
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), stored)
    return convert(read(placed))
