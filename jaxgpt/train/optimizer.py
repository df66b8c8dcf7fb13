"""AdamW with a decay mask and its schedule, through Optax."""

import jax
import optax

from jaxgpt.config import OptimizerConfig
from jaxgpt.model.stack import Params


def learning_rate_schedule(cfg: OptimizerConfig, max_steps: int) -> optax.Schedule:
    """Steps done -> learning rate of the next: linear up to learning_rate, then half a cosine down to its final part.

    The first step's rate is learning_rate / warmup_steps, not 0, so no step is without effect; the last step's is
    learning_rate * final_learning_rate_ratio.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if cfg.warmup_steps else cfg.learning_rate,
        peak_value=cfg.learning_rate,
        warmup_steps=cfg.warmup_steps,
        decay_steps=max(max_steps, cfg.warmup_steps + 1),
        end_value=cfg.learning_rate * cfg.final_learning_rate_ratio,
    )
    return lambda steps_done: schedule(steps_done + 1)


def decay_mask(params: Params) -> Params:
    """True for matrices and embedding tables; biases and LayerNorms are not decayed."""

    # By name and not by dimensions: stacked over layers, a bias is a matrix, too.
    def decays(path: tuple[jax.tree_util.DictKey, ...], param: jax.Array) -> bool:
        names = [key.key for key in path]
        return names[-1] == "weight" and not any(name.startswith("ln_") for name in names)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(cfg: OptimizerConfig, max_steps: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(cfg.max_grad_norm),
        optax.adamw(
            learning_rate_schedule(cfg, max_steps),
            b1=cfg.b1,
            b2=cfg.b2,
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
            mask=decay_mask,
        ),
    )
