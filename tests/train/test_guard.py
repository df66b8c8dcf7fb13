"""The judgement of steps against plain numpy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import GuardConfig
from jaxgpt.train.guard import Guard, judge, new_guard

SPIKE = 8.0


def _run(losses: np.ndarray, norms: np.ndarray | None = None, spike: float = SPIKE) -> tuple[np.ndarray, Guard]:
    """Which steps are good, and what the guard knew after each step (arrays over steps)."""
    norms = np.ones(len(losses)) if norms is None else norms

    def step(guard: Guard, inputs: tuple[jax.Array, jax.Array]) -> tuple[Guard, tuple[jax.Array, Guard]]:
        good, guard = judge(GuardConfig(spike=spike), guard, *inputs)
        return guard, (good, guard)

    inputs = (jnp.asarray(losses, jnp.float32), jnp.asarray(norms, jnp.float32))
    good, guards = jax.jit(partial(jax.lax.scan, step))(new_guard(), inputs)[1]
    return np.asarray(good), guards


def _weighted(losses: list[float]) -> tuple[float, float]:
    """Mean and variance where each loss has 0.98 of the weight of the next, the first fifty alike."""
    weights = np.ones(0)
    for count in range(1, len(losses) + 1):
        share = max(0.02, 1 / count)
        weights = np.append(weights * (1 - share), share)
    mean = (weights * losses).sum()
    return mean, (weights * (np.array(losses) - mean) ** 2).sum()


def test_a_sequence_with_a_nan_an_infinite_gradient_and_spikes() -> None:
    random = np.random.default_rng(0)
    losses = 3 + 0.05 * random.normal(size=160)
    norms = random.uniform(0.5, 2, 160)
    losses[20] = 30.0  # too early to be called a spike: it counts
    losses[90], losses[91], losses[120] = np.nan, np.inf, 9.0
    norms[92], norms[130] = np.inf, np.nan
    good, guards = _run(losses, norms)
    kept, in_row = [], 0
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        mean, variance = _weighted(kept) if kept else (0.0, 0.0)
        expected = bool(np.isfinite(loss) and np.isfinite(norm))
        expected &= not (len(kept) >= 50 and loss > mean + SPIKE * variance**0.5)
        kept, in_row = ([*kept, loss], 0) if expected else (kept, in_row + 1)
        assert good[step] == expected, step
        mean, variance = _weighted(kept)
        assert guards.mean[step] == pytest.approx(mean, rel=1e-5), step
        assert guards.variance[step] == pytest.approx(variance, rel=1e-4, abs=1e-9), step
        assert (guards.seen[step], guards.bad_in_row[step]) == (len(kept), in_row), step
    # The loss of 30 makes the deviation so wide that 9.0 is none; without it, it is.
    assert np.flatnonzero(~good).tolist() == [90, 91, 92, 130]
    losses[20] = 3.0
    good, guards = _run(losses, norms)
    assert np.flatnonzero(~good).tolist() == [90, 91, 92, 120, 130]
    assert np.asarray(guards.bad_in_row)[88:94].tolist() == [0, 0, 1, 2, 3, 0]


def test_the_first_statistics_are_plain_mean_and_variance() -> None:
    losses = np.random.default_rng(1).normal(5, 2, 50)
    _, guards = _run(losses)
    for count in (1, 2, 3, 10, 50):
        assert guards.mean[count - 1] == pytest.approx(losses[:count].mean(), rel=1e-5)
        assert guards.variance[count - 1] == pytest.approx(losses[:count].var(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize("half", [1, 10, 200])
def test_a_loss_that_falls_fast_is_no_spike(half: int, noise: float) -> None:
    """From 11 towards 0, by half in every `half` steps, and once off a cliff."""
    steps = np.arange(600)
    losses = 11 * 0.5 ** (steps / half) * (1 + noise * np.random.default_rng(2).normal(size=600))
    assert _run(losses)[0].all()
    losses[300:] /= 100
    assert _run(losses)[0].all()


def test_a_spike_of_just_so_many_deviations() -> None:
    losses = np.tile([2.0, 4.0], 40)  # mean 3; the deviation stays near 1
    mean, variance = _weighted(losses.tolist())
    for deviations, expected in ((SPIKE - 0.05, True), (SPIKE + 0.05, False)):
        good, _ = _run(np.append(losses, mean + deviations * variance**0.5))
        assert good[-1] == expected
    assert _run(np.append(losses, mean - 100))[0][-1]


def test_spike_0_leaves_finite_losses_alone() -> None:
    losses = np.append(np.full(80, 3.0), [1e6, np.nan])
    good, _ = _run(losses, spike=0.0)
    assert good.tolist() == [True] * 81 + [False]


def test_bad_steps_from_the_start_leave_no_trace() -> None:
    good, guards = _run(np.array([np.nan, np.inf, 4.0]))
    assert good.tolist() == [False, False, True]
    assert np.asarray(guards.mean).tolist() == [0, 0, 4]
    assert np.asarray(guards.bad_in_row).tolist() == [1, 2, 0]
