"""How far a figure may be off because the test set is what it is: percentile bootstrap over its units."""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 1000
_SEED = 0
_LEVEL = 95.0  # per cent


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of Σ numerators / Σ denominators, both (units,); None where there are fewer than two units.

    Units are drawn with replacement, as many as there are, both values of one together. Source: Efron 1979.
    """
    drawn = resampled_sums(np.stack([numerators, denominators], axis=1))
    if drawn is None:
        return None
    return middle(drawn[:, 0] / drawn[:, 1])


def middle(drawn: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a figure from its values (resamples,), by percentiles."""
    low, high = np.percentile(drawn, [(100 - _LEVEL) / 2, (100 + _LEVEL) / 2])
    return float(low), float(high)


def resampled_sums(values: np.ndarray) -> np.ndarray | None:
    """Sums of units drawn with replacement: values (units, columns) -> (1000, columns); the same draws every time."""
    n = len(values)
    if n < 2:
        return None
    random = np.random.default_rng(_SEED)
    # How often each unit was drawn, a resample at a time: all of them at once may not fit.
    return np.stack([np.bincount(random.integers(0, n, n), minlength=n) @ values for _ in range(_RESAMPLES)])
