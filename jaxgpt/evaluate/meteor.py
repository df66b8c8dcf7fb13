"""METEOR without synonyms: tokens that are the same, then those of the same Porter stem."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

from jaxgpt.evaluate.ngrams import Tokens

_ALPHA, _BETA, _GAMMA = 0.9, 3, 0.5
_Stem = Callable[[str], str]


def meteor_without_synonyms(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """The mean over replies of the best score against any of a reply's references, 0 to 1; case does not count.

    This is nltk's `meteor_score` with a WordNet that knows no word, so it is lower than with one. It also is not what
    the Java program of METEOR 1.5 computes, which has other parameters and paraphrases. Repeated tokens are aligned as
    nltk does, the last with the last. Source: Banerjee and Lavie 2005.
    """
    from nltk.stem.porter import PorterStemmer

    stem: _Stem = cache(PorterStemmer().stem)
    best = [
        max(_score(_lower(hypothesis), _lower(reference), stem) for reference in own)
        for hypothesis, own in zip(hypotheses, references, strict=True)
    ]
    return sum(best) / len(best)


def _lower(tokens: Tokens) -> list[str]:
    return [token.lower() for token in tokens]


def _score(hypothesis: Tokens, reference: Tokens, stem: _Stem) -> float:
    pairs = _align(hypothesis, reference, stem)
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(hypothesis), len(pairs) / len(reference)
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    return mean * (1 - _GAMMA * (_chunks(pairs) / len(pairs)) ** _BETA)


def _align(hypothesis: Tokens, reference: Tokens, stem: _Stem) -> list[tuple[int, int]]:
    """Places of tokens that belong together, (hypothesis, reference), in the hypothesis' order."""
    pairs = list[tuple[int, int]]()
    left, right = dict(enumerate(hypothesis)), dict(enumerate(reference))
    for form in (str, stem):
        places: dict[str, list[int]] = defaultdict(list)
        for place, token in right.items():
            places[form(token)].append(place)
        for place, token in reversed(list(left.items())):
            if same := places[form(token)]:
                pairs.append((place, same.pop()))
                del left[pairs[-1][0]], right[pairs[-1][1]]
    return sorted(pairs)


def _chunks(pairs: list[tuple[int, int]]) -> int:
    """Runs of pairs that are adjacent, and in the same order, on both sides."""
    return 1 + sum((place + 1, other + 1) != following for (place, other), following in pairwise(pairs))
