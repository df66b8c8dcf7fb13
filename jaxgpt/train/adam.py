"""Adam's moments and direction, written so that a step reads and writes each array once.

Source: Kingma and Ba 2015, "Adam", algorithm 1; the state is Optax's.
"""

import jax
import jax.numpy as jnp
import optax

from jaxgpt.model.stack import Params


def scale_by_adam(b1: float, b2: float, eps: float, good: jax.Array | bool) -> optax.GradientTransformation:
    """As `optax.scale_by_adam`, of which a step that is not `good` changes nothing in the state.

    The direction is computed from the moments as they are kept. Where the choice by `good` is made afterwards, XLA has
    to keep the old moments beside the new ones, which on a CPU takes three times as long.
    """

    def update(
        grads: Params, state: optax.ScaleByAdamState, params: Params | None = None
    ) -> tuple[Params, optax.ScaleByAdamState]:
        def moment(olds: Params, decay: float, order: int) -> Params:
            return jax.tree.map(
                lambda old, grad: jnp.where(good, decay * old + (1 - decay) * grad**order, old), olds, grads
            )

        count = jnp.where(good, optax.safe_increment(state.count), state.count)
        mu, nu = moment(state.mu, b1, 1), moment(state.nu, b2, 2)
        # A run whose first step is bad has a count of 0 and moments of 0.
        correct_mu, correct_nu = (1 / (1 - decay ** jnp.maximum(count, 1)) for decay in (b1, b2))
        updates = jax.tree.map(lambda m, v: m * correct_mu / (jnp.sqrt(v * correct_nu) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2, eps).init, update)
