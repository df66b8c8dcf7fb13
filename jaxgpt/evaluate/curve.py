"""How a run's loss fell, over what it took: tokens, arithmetic and time."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.flops import train_flops_per_token
from jaxgpt.train.loggers import METRICS


@dataclass(frozen=True)
class Curve:
    """Arrays (lines,) of a run's log, and what was validated, (validations,), with the step of each.

    flops: 6 N + 12 L T D for each token; hours: of steps alone, without compiling, saving and evaluating.
    """

    step: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    hours: np.ndarray
    loss: np.ndarray
    valid_step: np.ndarray
    valid_loss: np.ndarray

    def at(self, steps: np.ndarray, of: np.ndarray) -> np.ndarray:
        """tokens, flops or hours at these steps, between the lines in proportion."""
        return np.interp(steps, self.step, of)


def read_curve(run: Path, model: ModelConfig, batch_size: int) -> Curve:
    """batch_size: sequences of a step. UserError where the run has no log of its training."""
    log = run / METRICS
    if not log.is_file():
        raise UserError(f"{log} is missing; compare runs that `jaxgpt train` wrote")
    whole, _, _ = log.read_text(encoding="utf-8").rpartition("\n")  # a run under way may be writing the last line
    lines = [json.loads(line) for line in whole.splitlines()]
    trained = [line for line in lines if "loss" in line]
    valid = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    steps = np.array([line["step"] for line in trained])
    if not trained:
        raise UserError(f"{log} has no line of a step; compare runs that have been trained")
    tokens = steps * np.array([line["tokens_total"] for line in trained])
    seq_len = int(trained[0]["tokens_total"]) // batch_size
    seconds = np.array([line.get("step_seconds", np.nan) for line in trained])
    known = np.nan_to_num(seconds, nan=float(np.nanmedian(seconds)) if np.isfinite(seconds).any() else 0.0)
    return Curve(
        steps,
        tokens,
        tokens * train_flops_per_token(model, seq_len),
        np.cumsum(known * np.diff(steps, prepend=0)) / 3600,
        np.array([line["loss"] for line in trained]),
        np.array(list(valid)),
        np.array(list(valid.values())),
    )
