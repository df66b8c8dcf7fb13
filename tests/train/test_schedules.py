"""Each schedule against its formula, written out in numpy at ten steps, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.errors import UserError
from jaxgpt.optimizer_config import OptimizerConfig
from jaxgpt.train.schedules import make_schedule

PEAK, RATIO, WARMUP, MAX, DECAY, WIDTH = 3e-3, 0.1, 10, 2600, 600, 768
# Numbers of steps, from 1: within the warm-up, at its end, about noamwd's halvings and wsd's bend, and the last.
STEPS = np.array([1, 4, 10, 11, 499, 500, 1499, 1500, 2001, 2600])


def _schedule(name: str, **changes) -> optax.Schedule:
    options = {"learning_rate": PEAK, "warmup_steps": WARMUP, "final_learning_rate_ratio": RATIO, **changes}
    decay = {"decay_steps": DECAY} if name == "wsd" else {}
    return make_schedule(OptimizerConfig(schedule=name, **decay, **options), MAX, WIDTH)


def _after_warmup(step: int) -> float:
    return (step - WARMUP) / (MAX - WARMUP)


def _noam(step: int) -> float:
    return PEAK * 1e4 * WIDTH**-0.5 * min(step**-0.5, step * WARMUP**-1.5)


def _bert(step: int) -> float:
    """DialoGPT has 0 for the first step's number here, 1 for noam's."""
    x, warmup = (step - 1) / MAX, WARMUP / MAX
    return PEAK * (x / warmup if x < warmup else (1 - x) / (1 - warmup))


EXPECTED = {
    "constant": lambda s: PEAK,
    "linear": lambda s: PEAK * (1 - (1 - RATIO) * _after_warmup(s)),
    "cosine": lambda s: PEAK * (RATIO + (1 - RATIO) * (1 + np.cos(np.pi * _after_warmup(s))) / 2),
    "wsd": lambda s: PEAK if s <= MAX - DECAY else PEAK * (1 - (1 - RATIO) * (s - (MAX - DECAY)) / DECAY),
    "noam": _noam,
    "noamwd": lambda s: _noam(s) * 0.5 ** (max(s - 500 + 1000, 0) // 1000),
    "bert": _bert,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_ten_steps(name: str) -> None:
    ramps = name in ("constant", "linear", "cosine", "wsd")
    expected = [PEAK * s / WARMUP if ramps and s < WARMUP else EXPECTED[name](s) for s in STEPS.tolist()]
    schedule = _schedule(name)
    at_once = schedule(STEPS - 1)
    assert at_once.dtype == jnp.float32
    np.testing.assert_allclose(at_once, expected, rtol=3e-6)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.asarray(STEPS - 1, jnp.int32)), expected, rtol=3e-6)
    one_by_one = [float(schedule(step)) for step in STEPS - 1]  # numpy integers
    np.testing.assert_allclose(one_by_one, expected, rtol=3e-6)


@pytest.mark.parametrize("name", EXPECTED)
def test_no_step_is_out_of_bounds(name: str) -> None:
    """Also beyond the run, up to the largest int32, where a plot or a product of integers might go wrong."""
    rates = np.asarray(jax.jit(_schedule(name))(jnp.array([*range(4 * MAX), 2**24 + 1, 2**31 - 1], jnp.int32)))
    assert (rates >= 0).all()
    highest = 1e4 * WIDTH**-0.5 * WARMUP**-0.5 if name.startswith("noam") else 1
    assert rates.max() == pytest.approx(PEAK * highest, rel=1e-6)
    if name in ("linear", "cosine", "wsd"):
        np.testing.assert_allclose(rates[MAX - 1 :], PEAK * RATIO, rtol=1e-6)


@pytest.mark.parametrize(("warmup", "ratio"), [(10, 0.1), (1, 0.0), (0, 0.3)])
def test_cosine_is_optax_one_step_on(warmup: int, ratio: float) -> None:
    theirs = optax.warmup_cosine_decay_schedule(PEAK if not warmup else 0.0, PEAK, warmup, MAX, PEAK * ratio)
    ours = _schedule("cosine", warmup_steps=warmup, final_learning_rate_ratio=ratio)
    steps = np.arange(MAX)
    np.testing.assert_allclose(ours(steps), theirs(steps + 1), rtol=1e-4, atol=PEAK * 1e-7)


def test_noam_with_dialogpts_defaults_peaks_where_it_did() -> None:
    schedule = make_schedule(OptimizerConfig(schedule="noam", learning_rate=1e-5, warmup_steps=16000), 1_000_000, 768)
    rates = np.asarray(schedule(np.arange(0, 1_000_000)))
    assert rates.argmax() == 15999
    assert rates.max() == pytest.approx(2.8527e-5, rel=1e-4)


def test_noamwd_halves_at_every_thousand_steps_from_500() -> None:
    rates = np.asarray(_schedule("noamwd")(np.arange(MAX)), np.float64)
    plain = np.asarray(_schedule("noam")(np.arange(MAX)), np.float64)
    np.testing.assert_allclose(rates / plain, 0.5 ** ((np.arange(1, MAX + 1) + 500) // 1000), rtol=1e-6)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_without_warmup_the_first_step_has_the_full_rate(name: str) -> None:
    assert float(_schedule(name, warmup_steps=0)(0)) == pytest.approx(PEAK, rel=1e-3)
    assert float(_schedule(name, warmup_steps=1)(0)) == pytest.approx(PEAK, rel=1e-6)


def test_bert_without_warmup_falls_from_the_first_step() -> None:
    np.testing.assert_allclose(_schedule("bert", warmup_steps=0)(np.array([0, MAX // 2, MAX])), [PEAK, PEAK / 2, 0])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "noam"])
def test_a_run_that_is_all_warmup_ends_at_the_peak(name: str) -> None:
    schedule = make_schedule(OptimizerConfig(schedule=name, learning_rate=1.0, warmup_steps=5), 5, 768)
    rates = np.asarray(schedule(np.arange(5)))
    np.testing.assert_allclose(rates / rates[-1], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)


def test_wsd_may_fall_right_after_the_warmup() -> None:
    cfg = OptimizerConfig(
        schedule="wsd", learning_rate=1.0, warmup_steps=2, decay_steps=4, final_learning_rate_ratio=0.0
    )
    np.testing.assert_allclose(make_schedule(cfg, 6, 768)(np.arange(6)), [0.5, 1, 0.75, 0.5, 0.25, 0])


def test_warmup_and_decay_longer_than_the_run_are_refused() -> None:
    wsd = OptimizerConfig(schedule="wsd", warmup_steps=3, decay_steps=5)
    with pytest.raises(
        UserError, match=r"warmup_steps 3 with optimizer\.decay_steps 5 is more than train\.max_steps 7"
    ):
        make_schedule(wsd, 7, 768)
    with pytest.raises(UserError, match=r"^optimizer\.warmup_steps 8 is more than train\.max_steps 7"):
        make_schedule(OptimizerConfig(warmup_steps=8), 7, 768)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "wsd"}, "schedule wsd needs optimizer.decay_steps"),
        ({"schedule": "wsd", "decay_steps": 0}, "optimizer.decay_steps is 0; it must be above 0"),
        ({"schedule": "cosine", "decay_steps": 9}, "decay_steps is 9, but optimizer.schedule is cosine"),
        ({"schedule": "noam", "warmup_steps": 0}, "schedule noam needs optimizer.warmup_steps above 0"),
        ({"schedule": "noamwd", "warmup_steps": 0}, "schedule noamwd needs optimizer.warmup_steps above 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1; it must be 0 or more"),
        ({"learning_rate": 0.0}, "optimizer.learning_rate is 0.0; it must be above 0"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate is nan; it must be above 0"),
        ({"final_learning_rate_ratio": -0.1}, "optimizer.final_learning_rate_ratio is -0.1; it must be 0 or more"),
        ({"b2": 1.0}, "optimizer.b2 is 1.0; it must lie in [0, 1)"),
    ],
)
def test_options_that_make_no_schedule_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        OptimizerConfig(**options)
    assert message in str(error.value)
