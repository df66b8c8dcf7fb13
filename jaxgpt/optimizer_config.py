"""The optimizer, its schedule and the loss. Imports no jax."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.checks import not_negative, positive, probability, require

Schedule = Literal["constant", "linear", "cosine", "wsd", "noam", "noamwd", "bert"]


@dataclass(frozen=True)
class OptimizerConfig:
    """An Optax optimizer under a schedule. Steps are counted from 1.

    Args:
        name: of the optimizer; muon is for the matrices of the blocks, with adamw for everything else. lion wants a
            learning rate 3 to 10 times lower than the others
        schedule: of the learning rate after the warm-up: constant; linear or cosine down to
            final_learning_rate_ratio at the last step; wsd is constant and then linear over the last decay_steps;
            noam, noamwd and bert are DialoGPT's
        learning_rate: at the end of the warm-up (of noam and noamwd: a factor, see docs/training.md)
        final_learning_rate_ratio: the last step's rate as a fraction of learning_rate (linear, cosine, wsd)
        warmup_steps: steps from 0 to learning_rate
        decay_steps: of wsd: the last steps, over which the rate falls
        b1: decay of the first moment (of adafactor: 0 keeps none)
        b2: decay of the second moment (of lion: of the momentum; of adafactor: the highest decay)
        eps: added to the root of the second moment (adamw, muon)
        weight_decay: per unit of learning rate, on matrices and embedding tables only
        max_grad_norm: gradients are scaled down to this global norm
    """

    name: Literal["adamw", "adafactor", "lion", "muon"] = "adamw"
    schedule: Schedule = "cosine"
    learning_rate: float = 6e-4
    final_learning_rate_ratio: float = 0.1
    warmup_steps: int = 2000
    decay_steps: int | None = None
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        positive("optimizer", learning_rate=self.learning_rate, eps=self.eps, max_grad_norm=self.max_grad_norm)
        not_negative(
            "optimizer",
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            final_learning_rate_ratio=self.final_learning_rate_ratio,
        )
        probability("optimizer", b1=self.b1, b2=self.b2)
        require(
            self.schedule != "wsd" or self.decay_steps is not None,
            "optimizer.schedule wsd needs optimizer.decay_steps, the last steps over which the rate falls; give it",
        )
        if self.decay_steps is not None:
            positive("optimizer", decay_steps=self.decay_steps)
            require(
                self.schedule == "wsd",
                f"optimizer.decay_steps is {self.decay_steps}, but optimizer.schedule is {self.schedule}, which has "
                "no use for it; leave it out or set the schedule to wsd",
            )
        require(
            self.schedule not in ("noam", "noamwd") or self.warmup_steps > 0,
            f"optimizer.schedule {self.schedule} needs optimizer.warmup_steps above 0; DialoGPT has 16000",
        )

    def check_length(self, max_steps: int) -> None:
        """Raises UserError if the warm-up and wsd's decay don't fit into a run of max_steps."""
        parts = f"optimizer.warmup_steps {self.warmup_steps}"
        if self.decay_steps is not None:
            parts = f"{parts} with optimizer.decay_steps {self.decay_steps}"
        require(
            self.warmup_steps + (self.decay_steps or 0) <= max_steps,
            f"{parts} is more than train.max_steps {max_steps}; lower the one or raise the other",
        )


@dataclass(frozen=True)
class LossConfig:
    """What is added to the cross-entropy of the targets.

    Args:
        label_smoothing: this much of each target's probability is spread evenly over the vocabulary
        kl_weight: factor of the divergence KL(reference || model), per token, which keeps a model near another
        kl_model: the reference, which stays as it is: whatever `init_from` takes
    """

    label_smoothing: float = 0.0
    kl_weight: float = 0.0
    kl_model: str | None = None

    def __post_init__(self) -> None:
        probability("loss", label_smoothing=self.label_smoothing)
        not_negative("loss", kl_weight=self.kl_weight)
        require(
            (self.kl_weight > 0) == (self.kl_model is not None),
            f"loss.kl_weight is {self.kl_weight} and loss.kl_model is {self.kl_model or 'null'}; give both or neither",
        )
