"""Runs of tokens, and how varied those of all replies together are."""

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]
Ngram = tuple[str, ...]


def ngrams(tokens: Tokens, order: int) -> list[Ngram]:
    """All runs of `order` tokens, one from each place; none where there are fewer tokens."""
    return list(zip(*(tokens[begin:] for begin in range(order)), strict=False))


def count_ngrams(texts: Sequence[Tokens], order: int) -> Counter[Ngram]:
    """How often each run of `order` tokens occurs in all texts; none goes from one text to the next."""
    return Counter(ngram for text in texts for ngram in ngrams(text, order))


def entropy(counts: Counter[Ngram]) -> float:
    """Of the n-grams' frequencies, in nats; 0 where there are none. Source: Zhang et al. 2018, as DialoGPT used it."""
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def distinct(counts: Counter[Ngram]) -> float:
    """Different n-grams as a part of all, 0 to 1; 0 where there are none. Source: Li et al. 2016."""
    return len(counts) / counts.total() if counts else 0.0
