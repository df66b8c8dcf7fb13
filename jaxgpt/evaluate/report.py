"""Measurements as lines for people."""

from collections.abc import Iterator, Mapping
from typing import Any

# In the table already.
_SHOWN = ("figures", "token_perplexity", "word_perplexity", "bits_per_byte", "nll_sum", "tokens", "words", "bytes")


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of what `measure_on` gives: a table of the figures, then what has no interval, then groups."""
    figures = found.get("figures", [])
    if figures and "protocol" in figures[0]:
        yield from _table(figures)
    elif figures:
        for figure in figures:
            yield f"{figure['target']}: {figure['passages']:,} passages"
            yield f"  accuracy    {100 * figure['accuracy']:10.2f} %{_interval(figure['accuracy_interval'], 100)}"
            yield f"  perplexity  {figure['perplexity']:10,.3f}{_interval(figure['perplexity_interval'])}"
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


def _interval(found: Any, times: float = 1.0) -> str:
    return f"  [{times * found[0]:,.3f}, {times * found[1]:,.3f}]" if found else ""


def _table(figures: list[Mapping[str, Any]]) -> Iterator[str]:
    width = max(len(figure["protocol"]) for figure in figures)
    heads = f"{'nats':>14s} {'tokens':>11s} {'words':>11s} {'bytes':>13s}"
    yield f"{'protocol':{width}s} {'value':>12s}  {'95 % interval':>24s} {heads}"
    for figure in figures:
        low, high = figure["low"], figure["high"]
        interval = "" if low is None else f"[{low:,.3f}, {high:,.3f}]"
        yield (
            f"{figure['protocol']:{width}s} {figure['value']:12,.3f}  {interval:>24s} {figure['nll_sum']:14,.1f} "
            f"{figure['tokens']:11,} {figure['words']:11,} {figure['bytes']:13,}"
        )
    yield f"intervals over {figures[0]['units']}"
