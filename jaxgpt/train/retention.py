"""Which checkpoints a run keeps: a pure function of their steps, times and metrics."""

import json
import math
from typing import NamedTuple

from jaxgpt.config import CheckpointConfig

FOLDER = "checkpoints"  # of a run: one folder per step, named by its number
METADATA, METRICS = "run/metadata", "metrics/metrics"  # of a checkpoint
# What was found out after a checkpoint was sealed, and is no part of it: metrics of a later validation, and where the
# data goes on after a way back to it.
LATER_METRICS, WAY_BACK = "metrics/later", "run/way_back"


class Saved(NamedTuple):
    """A checkpoint. time: seconds since 1970; metrics: what was known of the model when it was saved."""

    step: int
    time: float
    metrics: dict[str, float]


def to_keep(saved: list[Saved], cfg: CheckpointConfig) -> set[int]:
    """Steps that any of the rules wants: the last ones, the first of each period, the best by cfg.best_metric.

    A period begins with the first checkpoint that is so many hours later than the one that began the period before.
    """
    ordered = sorted(saved, key=lambda entry: entry.step)
    kept = {entry.step for entry in ordered[-cfg.keep_last :]}
    began = -math.inf
    for entry in ordered:
        if entry.time - began >= 3600 * cfg.keep_every_hours:
            kept.add(entry.step)
            began = entry.time
    scores = {entry.step: entry.metrics.get(cfg.best_metric, math.nan) for entry in ordered}
    known = sorted((score, step) for step, score in scores.items() if not math.isnan(score))
    return kept | {step for _, step in known[: cfg.keep_best]}


def parse_saved(step: int, metadata: str, metrics: list[str], otherwise: float) -> Saved:
    """A checkpoint's JSON files; ValueError where they are none. otherwise: the time, where metadata has none."""
    content, scores = json.loads(metadata), [json.loads(text) for text in metrics]
    if not all(isinstance(found, dict) for found in [content, *scores]):
        raise ValueError("no JSON object")
    known = {name: float(value) for found in scores for name, value in found.items()}
    return Saved(step, float(content.get("saved_at", otherwise)), known)
