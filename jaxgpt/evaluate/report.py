"""Measurements as lines for people."""

from collections.abc import Iterator, Mapping
from typing import Any

# In the table already.
_SHOWN = ("figures", "token_perplexity", "word_perplexity", "bits_per_byte", "nll_sum", "tokens", "words", "bytes")


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of what `measure_on` gives: a table of the figures, then what has no interval, then groups."""
    if "figures" in found:
        yield from _table(found["figures"])
    for name, value in found.items():
        if name in _SHOWN:
            continue
        if isinstance(value, float):
            yield f"{name:18s} {value:,.4f}"
        elif isinstance(value, int):
            yield f"{name:18s} {value:,}"
        else:
            yield name
            for group in value:
                yield f"  {group['name']:24s} {group['perplexity']:12,.3f}  ({group['tokens']:,} tokens)"


def rounded(value: float) -> str:
    """Shares have a digit more than perplexities."""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.3f}"


def _table(figures: list[Mapping[str, Any]]) -> Iterator[str]:
    width = max(len(figure["protocol"]) for figure in figures)
    heads = f"{'nats':>14s} {'tokens':>11s} {'words':>11s} {'bytes':>13s}"
    yield f"{'protocol':{width}s} {'value':>12s}  {'95 % interval':>24s} {heads}"
    for figure in figures:
        low, high = figure["low"], figure["high"]
        interval = "" if low is None else f"[{rounded(low)}, {rounded(high)}]"
        yield (
            f"{figure['protocol']:{width}s} {rounded(figure['value']):>12s}  {interval:>24s} "
            f"{figure['nll_sum']:14,.1f} {figure['tokens']:11,} {figure['words']:11,} {figure['bytes']:13,}"
        )
    yield f"intervals over {figures[0]['units']}"
