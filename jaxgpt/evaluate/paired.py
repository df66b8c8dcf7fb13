"""Is one model better than another on the same texts? Both are resampled together, so what the texts have in common
does not count."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxgpt.evaluate.intervals import middle, resampled_sums
from jaxgpt.evaluate.protocols import Measured


@dataclass(frozen=True)
class Difference:
    """Of two models' figures of one protocol, other minus first.

    difference: in nats per unit that the figure is over (a token, a word; for bits_per_byte nats per byte), below 0
    where the other one is better; of an accuracy in shares, above 0 where the other one is better.

    low, high: of the 95 % interval; p_value: two-sided, of no difference; 0.001 is the least that can be told.
    """

    protocol: str
    first: str
    other: str
    difference: float
    low: float
    high: float
    p_value: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def paired(first_name: str, first: Measured, other_name: str, other: Measured) -> Difference | None:
    """By paired bootstrap over units; None where the two are not over the same ones, or are not finite.

    Source: Koehn 2004, "Statistical significance tests for machine translation evaluation".
    """
    same = first.protocol == other.protocol and np.array_equal(first.unit_per, other.unit_per)
    drawn = resampled_sums(np.stack([first.unit_sum, other.unit_sum, first.unit_per], axis=1)) if same else None
    if drawn is None:
        return None
    difference = float((other.unit_sum.sum() - first.unit_sum.sum()) / first.unit_per.sum())
    if not np.isfinite(difference):
        return None
    differences = (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2]
    low, high = middle(differences)
    n = len(differences)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(
        first.protocol, first_name, other_name, difference, low, high, min(1.0, 2 * max(int(tail), 0.5) / n)
    )
