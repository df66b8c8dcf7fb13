"""How a reply is drawn, and from how much of the conversation. Imports no framework, so that `--help` is fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import UserError


def _require(good: bool, name: str, value: float, rule: str) -> None:
    if not good:
        raise UserError(f"--{name} is {value}; it must {rule}")


@dataclass(frozen=True)
class Decoding:
    """How a reply is drawn.

    Args:
        temperature: logits are divided by it; higher is more surprising, 0 always takes the likeliest token
        top_k: only this many likeliest tokens are drawn; 0 means all
        top_p: only the likeliest tokens that together reach this probability are drawn
        min_p: only tokens at least this fraction as probable as the likeliest are drawn; 0 means all
        repetition_penalty: logits of tokens that stand in the prompt or reply already are divided by it (negative ones
            multiplied); 1 means none
        no_repeat_ngram_size: no run of so many tokens stands twice in prompt and reply; 0 means it may
        num_beams: more than 1 searches for the likeliest reply as a whole instead of drawing one; temperature, top_k,
            top_p and min_p then count for nothing
        length_penalty: of beams; their log-likelihood is divided by length to this power, so more means longer
        early_stopping: of beams; the search ends with the num_beams-th reply that is found, even where its beams are
            likelier than those
        max_new_tokens: longest reply; null means 200, or half of the model's positions where that is less
        seed: of the draws; null means another conversation each time
    """

    temperature: float = 0.9
    top_k: int = 0
    top_p: float = 0.9
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    max_new_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        warm = self.temperature == 0 or 1e-3 <= self.temperature < float("inf")  # less would overflow the logits
        _require(warm, "temperature", self.temperature, "be 0 (the likeliest), or from 0.001 upwards")
        _require(self.top_k >= 0, "top_k", self.top_k, "be 0 (all) or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "lie in (0, 1]")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "lie in [0, 1]")
        penalty = self.repetition_penalty
        _require(0 < penalty < float("inf"), "repetition_penalty", penalty, "be above 0")
        size = self.no_repeat_ngram_size
        _require(size >= 0, "no_repeat_ngram_size", size, "be 0 (none) or more")
        _require(self.num_beams >= 1, "num_beams", self.num_beams, "be 1 (none) or more")
        finite = abs(self.length_penalty) < float("inf")
        _require(finite, "length_penalty", self.length_penalty, "be a finite number")
        if self.max_new_tokens is not None:
            _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "be 1 or more")
        if self.seed is not None:
            _require(self.seed >= 0, "seed", self.seed, "be 0 or more")

    def longest(self, n_positions: int) -> int:
        """Tokens of the longest reply of a model with so many positions."""
        return self.max_new_tokens or max(min(200, n_positions // 2), 1)

    def check(self, n_positions: int, candidates: int = 1, *, prefix: str = "--") -> None:
        """UserError where a model with so many positions has no room for a prompt, or candidates would all be alike.

        prefix: of the options' names where the command that is asked has them.
        """
        longest = self.longest(n_positions)
        if longest >= n_positions:
            raise UserError(
                f"{prefix}max_new_tokens {longest} leaves no room for a prompt in the model's n_positions "
                f"{n_positions}; try {n_positions // 2}"
            )
        if candidates > 1 and not self.draws:
            raise UserError(
                f"--candidates {candidates} are drawn by chance, but {prefix}temperature is {self.temperature} "
                f"and {prefix}num_beams {self.num_beams}; set a temperature above 0 and 1 beam, or draw no candidates"
            )

    def rules(self) -> dict[str, Any]:
        """How one token is chosen, as decode.rules.make_rules takes it."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
        }

    @property
    def draws(self) -> bool:
        """Whether chance decides; otherwise the same conversation always gets the same reply."""
        return self.temperature > 0 and self.num_beams == 1


def check_stops(stops: Sequence[str], decoding: Decoding) -> None:
    """UserError where a completion can't end before these texts."""
    if "" in stops:
        raise UserError("--stop has an empty text, before which everything would end; leave it out")
    if stops and decoding.num_beams > 1:
        raise UserError("--stop can't be used with --num_beams above 1; leave one of them out")


@dataclass(frozen=True)
class History:
    """How much of the conversation the model sees. It is cut where turns begin.

    Args:
        turns: at most so many last turns of both speakers, the one to answer included; 0 means all that fit
        tokens: at most so many tokens; 0 means all that leave room for a reply
    """

    turns: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        _require(self.turns >= 0, "history.turns", self.turns, "be 0 (all) or more")
        _require(self.tokens >= 0, "history.tokens", self.tokens, "be 0 (all) or more")
