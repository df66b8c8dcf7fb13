"""Pictures of a comparison: what people look at first."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxgpt.evaluate.compare import INDEPENDENT, Comparison, Entry

_SMOOTH = 50  # points that a running mean leaves of a curve, at least
_BIN = 16  # tokens of a point of the loss by position


def draw(comparison: Comparison) -> dict[str, bytes]:
    """PNG by file name; a picture for which no model has the numbers is left out."""
    import matplotlib

    matplotlib.use("agg")  # draws into memory and needs no screen
    pictures: dict[str, bytes] = {}
    trained = [entry for entry in comparison.entries if entry.curve is not None]
    for name, label, of in (
        ("loss_over_tokens", "tokens", lambda entry: entry.curve.tokens),
        ("loss_over_flops", "FLOPs (6 N + 12 L T D for each token)", lambda entry: entry.curve.flops),
        ("loss_over_hours", "hours of steps", lambda entry: entry.curve.hours),
    ):
        if trained:
            pictures[f"{name}.png"] = _losses(trained, label, of)
    if protocol := _common_protocol(comparison):
        pictures["perplexity_over_parameters.png"] = _parameters(comparison, protocol)
    if any(entry.by_position is not None for entry in comparison.entries):
        pictures["loss_by_position.png"] = _positions(comparison.entries)
    return pictures


def _figure(title: str, xlabel: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Any, axes: Any) -> bytes:
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _losses(entries: Sequence[Entry], label: str, of: Callable[[Any], np.ndarray]) -> bytes:
    figure, axes = _figure("Loss", label, "nats per token")
    for entry in entries:
        curve = entry.curve
        assert curve is not None
        (line,) = axes.plot(of(entry), _running_mean(curve.loss), label=f"{entry.name}, training", alpha=0.6)
        validated = curve.at(curve.valid_step, of(entry))
        axes.plot(validated, curve.valid_loss, "o-", color=line.get_color(), label=f"{entry.name}, validation")
    return _png(figure, axes)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a fiftieth of the curve, of what came before; as long as the values are."""
    width = max(1, len(values) // _SMOOTH)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)


def _common_protocol(comparison: Comparison) -> str | None:
    """The first that can be compared, of the first data; None where there is none."""
    names = [[figure.protocol for figure in entry.figures[comparison.data[0]]] for entry in comparison.entries]
    one_tokenizer = len({entry.tokenizer for entry in comparison.entries}) == 1
    for name in names[0]:
        if all(name in own for own in names) and (one_tokenizer or name in INDEPENDENT):
            return name
    return None


def _parameters(comparison: Comparison, protocol: str) -> bytes:
    spec = comparison.data[0]
    label = "bits per byte" if protocol == "bits_per_byte" else "perplexity"
    figure, axes = _figure(f"{protocol} on {spec}", "parameters", label)
    for entry in comparison.entries:
        found = next(figure for figure in entry.figures[spec] if figure.protocol == protocol)
        spread = (
            None if found.low is None or found.high is None else [[found.value - found.low], [found.high - found.value]]
        )
        axes.errorbar(entry.n_parameters, found.value, yerr=spread, fmt="o", capsize=4, label=entry.name)
    axes.set_xscale("log")
    return _png(figure, axes)


def _positions(entries: Sequence[Entry]) -> bytes:
    figure, axes = _figure("Loss by position", "tokens before", "nats per token")
    for entry in entries:
        if entry.by_position is None:
            continue
        n = len(entry.by_position) // _BIN * _BIN
        means = np.nanmean(entry.by_position[:n].reshape(-1, _BIN), axis=1) if n else entry.by_position
        axes.plot((np.arange(len(means)) + 0.5) * (_BIN if n else 1), means, label=entry.name)
    return _png(figure, axes)
