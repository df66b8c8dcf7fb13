"""BLEU, computed by sacrebleu, and how far it may be off because the test set is what it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxgpt.evaluate.intervals import middle, resampled_sums

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEUScore

Tokenization = Literal["13a", "none"]
_ORDERS = 4


@dataclass(frozen=True)
class Bleu:
    """by_order: BLEU-1 to BLEU-4 of all replies together, each 0 to 100.

    low, high: of BLEU-4's 95 % interval over replies, None where there is only one; signature: sacrebleu's, to quote.
    """

    by_order: tuple[float, ...]
    low: float | None
    high: float | None
    signature: str


def tokenizer(tokenize: Tokenization) -> Callable[[str], list[str]]:
    """The tokens that BLEU counts: of mteval's rules (`13a`), or what stands between white space (`none`)."""
    from sacrebleu.metrics import BLEU

    line_of_tokens = BLEU(tokenize=tokenize).tokenizer
    return lambda text: line_of_tokens(text.rstrip()).split()


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenization) -> Bleu:
    """hypotheses (replies,); references: some for each, not always as many. Case counts; smoothing is mteval's (`exp`).

    An order of which no reply has an n-gram is left out of the mean. Source: Papineni et al. 2002, Post 2018.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, effective_order=True, force=True)
    whole = _counts(metric.corpus_score(hypotheses, list(zip_longest(*references))))
    signature = str(metric.get_signature())  # asked for here, as it tells the number of the last call's references
    by_reply = [_counts(metric.sentence_score(*reply)) for reply in zip(hypotheses, references, strict=True)]
    low = high = None
    drawn = resampled_sums(np.array(by_reply))
    if drawn is not None:
        low, high = middle([_score(sums, _ORDERS) for sums in drawn.tolist()])
    return Bleu(tuple(_score(whole, orders) for orders in range(1, _ORDERS + 1)), low, high, signature)


def _counts(found: "BLEUScore") -> list[int]:
    """All that BLEU is made of: tokens of replies and references, n-grams that match by order, all by order."""
    return [found.sys_len, found.ref_len, *found.counts, *found.totals]


def _score(counts: list[int], orders: int) -> float:
    from sacrebleu.metrics import BLEU

    of_replies, of_references, *by_order = counts
    return BLEU.compute_bleu(
        by_order[:orders],
        by_order[_ORDERS : _ORDERS + orders],
        of_replies,
        of_references,
        smooth_method="exp",
        effective_order=True,
        max_ngram_order=orders,
    ).score
