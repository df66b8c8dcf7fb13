"""How a run's loss fell, over what it took: tokens, arithmetic and time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.checkpoint import read_run_state, steps
from jaxgpt.train.flops import train_flops_per_token
from jaxgpt.train.loggers import METRICS
from jaxgpt.train.seal import DamagedError


@dataclass(frozen=True)
class Curve:
    """Arrays (lines,) of a run's log, and what was validated, (validations,), with the step of each.

    tokens: up to each step, where a line's rate is that of all steps since the line before; flops: 6 N + 12 L T D for
    each token, with the last line's T; hours: of steps alone, without compiling, saving and evaluating.
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


def read_curve(run: Path, model: ModelConfig, batch_size: int) -> Curve | None:
    """None where the run has no log of a step, so that nobody knows. UserError where the log has a broken line.

    batch_size: sequences of a step, as the run's configuration has it now.
    """
    log = run / METRICS
    lines = _lines(log) if log.is_file() else []
    trained = [line for line in lines if "loss" in line]
    if not trained:
        return None
    valid = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
    at = np.array([line["step"] for line in trained])
    new_steps = np.diff(at, prepend=0)
    tokens = np.cumsum(new_steps * np.array([line["tokens_total"] for line in trained]))
    seq_len = int(trained[-1]["tokens_total"]) // _batch_size_at(run, trained[-1]["step"], batch_size)
    seconds = np.array([line.get("step_seconds", np.nan) for line in trained])
    known = np.nan_to_num(seconds, nan=float(np.nanmedian(seconds)) if np.isfinite(seconds).any() else 0.0)
    return Curve(
        at,
        tokens,
        tokens * train_flops_per_token(model, seq_len),
        np.cumsum(known * new_steps) / 3600,
        np.array([line["loss"] for line in trained]),
        np.array(list(valid)),
        np.array(list(valid.values())),
    )


def _lines(log: Path) -> list[dict[str, Any]]:
    whole, _, _ = log.read_bytes().rpartition(b"\n")  # a run under way may be writing the last line
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{log} line {number}: not JSON ({error}); take the line away") from None
        if not isinstance(values, dict) or "step" not in values or ("loss" in values and "tokens_total" not in values):
            raise UserError(f"{log} line {number}: expected step, and tokens_total beside loss; take the line away")
        lines.append(values)
    return lines


def _batch_size_at(run: Path, step: int, now: int) -> int:
    """Of the call of `jaxgpt train` that logged this step: a resumed run may have another one, `now`.

    Whoever goes on from a checkpoint cuts what was logged after it, so the first one that follows is of the same call.
    """
    for saved in steps(run):
        if saved >= step:
            try:
                return int(read_run_state(run, saved).config["train"]["batch_size"])
            except DamagedError:
                continue
    return now
