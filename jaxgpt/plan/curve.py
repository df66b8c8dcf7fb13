"""The learning rate of a run, drawn."""

from pathlib import Path

import numpy as np

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.train.schedules import make_schedule

_FORMATS = (".png", ".svg", ".pdf")


def draw_schedule(cfg: Config, output: Path) -> list[str]:
    """Writes the picture; the lines say what is marked in it. UserError where matplotlib or the format is missing."""
    if output.suffix not in _FORMATS:
        raise UserError(f"--output {output} must end in one of {' '.join(_FORMATS)}")
    try:
        import matplotlib
    except ImportError:
        raise UserError("--schedule needs matplotlib; pip install -r requirements-plan.txt") from None
    matplotlib.use("agg")  # draws into a file and needs no screen
    from matplotlib import pyplot

    steps = np.arange(1, cfg.train.max_steps + 1)
    rates = np.asarray(make_schedule(cfg.optimizer, cfg.train.max_steps, cfg.model.n_embd)(steps - 1))
    peak = int(rates.argmax())
    marks = [
        f"{name}: learning rate {rates[at]:.4g} at step {steps[at]:,}" for name, at in (("peak", peak), ("end", -1))
    ]
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    axes.plot(steps, rates)
    if warmup := cfg.optimizer.warmup_steps:
        axes.axvspan(0, warmup, alpha=0.2, label=f"warm-up: {warmup:,} steps")
    for at, mark in zip((peak, -1), marks, strict=True):
        axes.plot(steps[at], rates[at], "o", label=mark)
    axes.set(title=f"{cfg.optimizer.name}, {cfg.optimizer.schedule}", xlabel="step", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)
    pyplot.close(figure)
    return marks
