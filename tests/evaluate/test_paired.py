"""Whether a difference is one: against permutations of the signs, and where there is none."""

import numpy as np
import pytest

from jaxgpt.evaluate.paired import paired
from jaxgpt.evaluate.protocols import Measured, Sums, measured

N = 80


def figure(nll: np.ndarray, per: np.ndarray, protocol: str = "word") -> Measured:
    return measured(protocol, Sums(nll, per, per, per, "documents"), per)


def two(effect: float) -> tuple[Measured, Measured]:
    """Two models whose documents are alike hard for both; the other one is `effect` nats per word worse."""
    random = np.random.default_rng(3)
    per = random.integers(5, 50, N).astype(float)
    hardness = random.normal(4.0, 1.0, N)
    noise = random.normal(0.0, 0.05, (2, N))
    return figure((hardness + noise[0]) * per, per), figure((hardness + noise[1] + effect) * per, per)


def test_a_small_difference_on_the_same_documents_is_found() -> None:
    first, other = two(0.05)
    found = paired("a", first, "b", other)
    assert found is not None
    assert found.difference == pytest.approx(float((other.unit_sum - first.unit_sum).sum() / first.unit_per.sum()))
    assert 0 < found.low < found.difference < found.high
    assert found.p_value < 0.01
    # Unpaired, each one's interval holds the other one's figure.
    assert first.low is not None
    assert first.high is not None
    assert first.low < other.value < first.high


def test_no_difference_is_not_found_and_agrees_with_a_permutation_test() -> None:
    first, other = two(0.0)
    found = paired("a", first, "b", other)
    assert found is not None
    assert found.low < 0 < found.high
    each = other.unit_sum - first.unit_sum
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (4000, N))
    permuted = float((np.abs(signs @ each) >= abs(each.sum())).mean())
    assert found.p_value == pytest.approx(permuted, abs=0.1)


def test_only_the_same_units_are_compared() -> None:
    first, other = two(0.1)
    assert paired("a", first, "b", figure(other.unit_sum, other.unit_per + 1)) is None
    assert paired("a", first, "b", figure(other.unit_sum[1:], other.unit_per[1:])) is None
    assert paired("a", first, "b", figure(other.unit_sum, other.unit_per, "token")) is None


def test_a_model_without_finite_nats_is_not_compared() -> None:
    first, other = two(0.1)
    nll = other.unit_sum.copy()
    nll[3] = np.nan
    assert paired("a", first, "b", figure(nll, other.unit_per)) is None
    nll[3] = np.inf
    assert paired("a", first, "b", figure(nll, other.unit_per)) is None


def test_a_model_is_as_good_as_itself() -> None:
    first, _ = two(0.0)
    found = paired("a", first, "a", first)
    assert found is not None
    assert (found.difference, found.p_value) == (0.0, 1.0)
