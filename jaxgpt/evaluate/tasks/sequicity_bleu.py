"""BLEU as papers on task-oriented dialogue since Sequicity have it: 0 to 1, over all turns, words between spaces."""

import math
from collections.abc import Sequence

from jaxgpt.evaluate.ngrams import count_ngrams

_ORDERS = 4
_P0 = 1e-7  # added to every precision and its denominator, so that none is 0


def sequicity_bleu(replies: Sequence[str], references: Sequence[str]) -> float:
    """replies, references (turns,). Without any word in the replies it is 0.

    Source: BLEUScorer in `metric.py` of github.com/WING-NUS/sequicity, as ARDM and MultiWOZ have it, for one reference.
    """
    pairs = [(reply.split(), reference.split()) for reply, reference in zip(replies, references, strict=True)]
    said, wanted = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    if not said:
        return 0.0
    logs = 0.0
    for order in range(1, _ORDERS + 1):
        right = total = 0
        for reply, reference in pairs:
            own = count_ngrams([reply], order)
            right += (own & count_ngrams([reference], order)).total()
            total += own.total()
        logs += math.log(right / (total + _P0) + _P0) / _ORDERS
    return (1.0 if said > wanted else math.exp(1 - wanted / said)) * math.exp(logs)
