"""How a reply is drawn. Imports no framework, so that `--help` is fast."""

from dataclasses import dataclass

from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Decoding:
    """How a reply is drawn.

    Args:
        temperature: logits are divided by it; higher is more surprising
        top_p: only the likeliest tokens that together reach this probability are drawn
        top_k: only this many likeliest tokens are drawn; 0 means all
        repetition_penalty: logits of tokens that were said already are divided by it; 1 means none
        max_new_tokens: longest reply; null means 200, or half of the model's positions where that is less
        seed: of the draws; null means another conversation each time
    """

    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("repetition_penalty", self.repetition_penalty)):
            if value <= 0:
                raise UserError(f"--{name} is {value}; it must be above 0")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p is {self.top_p}; it must lie in (0, 1]")
        if self.top_k < 0:
            raise UserError(f"--top_k is {self.top_k}; it must be 0 (all) or more")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens is {self.max_new_tokens}; it must be 1 or more")
