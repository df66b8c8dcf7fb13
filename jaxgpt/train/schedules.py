"""The learning rate of each step, as closed formulas of the steps done."""

import jax
import jax.numpy as jnp
import optax

from jaxgpt.optimizer_config import OptimizerConfig


def make_schedule(cfg: OptimizerConfig, max_steps: int, n_embd: int) -> optax.Schedule:
    """Steps done, any shape of integers -> learning rates of the next steps, float32 of that shape.

    constant, linear, cosine and wsd: step s (from 1) of the warm-up has learning_rate * s / warmup_steps, so no step is
    without effect, and the last step has learning_rate * final_learning_rate_ratio (constant: learning_rate). Later
    steps, which only a plot can ask for, keep the last one's rate. A warm-up that is the whole run ends at its peak.

    noam, noamwd and bert: DialoGPT's `set_lr` (gpt2_training/train_utils.py at github.com/microsoft/DialoGPT), with its
    warm-up proportion as warmup_steps / max_steps. noam is Vaswani et al. 2017's. bert's first step has the rate 0.

    Raises UserError if warm-up and decay are longer than the run.
    """
    cfg.check_length(max_steps)

    def learning_rate(steps_done: jax.typing.ArrayLike) -> jax.Array:
        # Counted as float32, because products of int32 steps would overflow.
        return cfg.learning_rate * _factor(cfg, max_steps, n_embd, jnp.asarray(steps_done, jnp.float32))

    return learning_rate


def _factor(cfg: OptimizerConfig, max_steps: int, n_embd: int, done: jax.Array) -> jax.Array:
    """Of learning_rate, at the step that follows `done` steps."""
    step, ratio = done + 1, cfg.final_learning_rate_ratio
    # Nothing is divided by 0 where there is no warm-up, or nothing after it.
    warmup, rest = max(cfg.warmup_steps, 1), max(max_steps - cfg.warmup_steps, 1)
    ramp = jnp.minimum(step / warmup, 1.0)
    after = jnp.clip((step - cfg.warmup_steps) / rest, 0.0, 1.0)  # part of the steps after the warm-up
    match cfg.schedule:
        case "constant":
            return ramp
        case "linear":
            return ramp * (ratio * after + (1 - after))
        case "cosine":
            return ramp * (ratio + (1 - ratio) * 0.5 * (1 + jnp.cos(jnp.pi * after)))
        case "wsd":
            assert cfg.decay_steps is not None  # checked where the configuration is made
            left = jnp.clip((max_steps - step) / cfg.decay_steps, 0.0, 1.0)
            return ramp * (left + ratio * (1 - left))
        case "noam":
            return _noam(cfg, n_embd, step)
        case "noamwd":
            # The half keeps the quotient away from whole numbers, where a device's division might round down.
            halvings = jnp.floor((step + 500.5) / 1000)
            return _noam(cfg, n_embd, step) * jnp.exp2(-halvings)
        case "bert":
            return jnp.where(done < cfg.warmup_steps, done / warmup, jnp.clip((max_steps - done) / rest, 0.0, 1.0))


def _noam(cfg: OptimizerConfig, n_embd: int, step: jax.Array) -> jax.Array:
    return 1e4 * n_embd**-0.5 * jnp.minimum(step**-0.5, step * cfg.warmup_steps**-1.5)
