"""NIST: shared n-grams, each worth as many bits as it tells. Two readings of it, equal for one reference each.

The formula is of a time with few references; nltk and mteval read it differently where a reply has several.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxgpt.evaluate.ngrams import Ngram, Tokens, count_ngrams, ngrams

_ORDERS = 5


@dataclass(frozen=True)
class Nist:
    """Each NIST-1 to NIST-5, in bits, from 0 up.

    nltk: as its `corpus_nist` has it; a reply is compared, for each order, with the reference that suits it best.
    mteval: as mteval-v14 has it; a reply is compared with all references pooled, and with their mean length.
    """

    nltk: tuple[float, ...]
    mteval: tuple[float, ...]


def nist(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Nist:
    """hypotheses (replies,); references: some for each, of which one has a token. Orders without n-grams add nothing.

    Source: Doddington 2002, equations 2 and 3.
    """
    bits = _information([reference for own in references for reference in own])
    n_tokens = sum(map(len, hypotheses))
    mean_lengths = sum(sum(map(len, own)) / len(own) for own in references)
    best_total = pooled_total = 0.0
    best_lengths, by_nltk, by_mteval = 0, list[float](), list[float]()
    for order in range(1, _ORDERS + 1):
        n_ngrams, best, pooled = 0, 0.0, 0.0
        for hypothesis, own in zip(hypotheses, references, strict=True):
            counts = Counter(ngrams(hypothesis, order))
            of_references = [Counter(ngrams(reference, order)) for reference in own]
            # Of equally good references nltk takes the longest; it sums lengths over orders.
            shared, length = max(
                (_shared(counts, found, bits), len(reference))
                for found, reference in zip(of_references, own, strict=True)
            )
            best, best_lengths = best + shared, best_lengths + length
            most = {ngram: max(found.get(ngram, 0) for found in of_references) for ngram in counts}
            pooled += _shared(counts, most, bits)
            n_ngrams += counts.total()
        best_total += best / max(n_ngrams, 1)
        pooled_total += pooled / max(n_ngrams, 1)
        by_nltk.append(best_total * _length_penalty(n_tokens * order, best_lengths))
        by_mteval.append(pooled_total * _length_penalty(n_tokens, mean_lengths))
    return Nist(tuple(by_nltk), tuple(by_mteval))


def _information(references: Sequence[Tokens]) -> dict[Ngram, float]:
    """Bits that an n-gram's last token tells after those before it, by the counts in all references."""
    before: Counter[Ngram] = Counter({(): sum(map(len, references))})
    bits = dict[Ngram, float]()
    for order in range(1, _ORDERS + 1):
        counts = count_ngrams(references, order)
        bits |= {ngram: math.log(before[ngram[:-1]] / count, 2) for ngram, count in counts.items()}
        before = counts
    return bits


def _shared(hypothesis: Mapping[Ngram, int], reference: Mapping[Ngram, int], bits: Mapping[Ngram, float]) -> float:
    """Bits of the n-grams that both have, each as often as the one that has it less often."""
    both = ((ngram, min(count, reference.get(ngram, 0))) for ngram, count in hypothesis.items())
    return sum(bits[ngram] * count for ngram, count in both if count)


def _length_penalty(length: int, reference_length: float) -> float:
    """1 for replies as long as the references, 0.5 for two thirds of that."""
    if length == 0:
        return 0.0
    ratio = min(length / reference_length, 1.0)
    return math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2)
