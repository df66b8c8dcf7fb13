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
        if name == "warnings":
            yield from value
        elif isinstance(value, float):
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
    rows = [
        ("protocol", "value", "95 % interval", "nats", "tokens", "words", "bytes"),
        *(
            (
                figure["protocol"],
                rounded(figure["value"]),
                "" if figure["low"] is None else f"[{rounded(figure['low'])}, {rounded(figure['high'])}]",
                f"{figure['nll_sum']:,.1f}",
                *(f"{figure[name]:,}" for name in ("tokens", "words", "bytes")),
            )
            for figure in figures
        ),
    ]
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, *cells in rows:
        yield "  ".join([f"{name:{first}s}", *(f"{cell:>{width}s}" for cell, width in zip(cells, widths, strict=True))])
    units = dict.fromkeys(figure["units"] for figure in figures)
    for unit in units:
        of = [figure["protocol"] for figure in figures if figure["units"] == unit]
        yield f"intervals over {unit}" + (f": {', '.join(of)}" if len(units) > 1 else "")
