"""How the loss falls with the number of tokens before: what a longer context is worth to a model."""

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.evaluate.corpora import Corpus
from jaxgpt.evaluate.scoring import Scorer
from jaxgpt.evaluate.windows import sliding
from jaxgpt.progress import progress_bar

_MOST_TOKENS = 1 << 16  # of which every position has a share


def loss_by_position(scorer: Scorer, tokenizer: Tokenizer, corpus: Corpus) -> np.ndarray:
    """Mean nats of the tokens with 1, 2, … tokens before them (context - 2,), NaN where there is none.

    Over windows of as many tokens as the model takes, from the corpus' first 65,536.
    """
    text = corpus.detokenize(corpus.text)
    length = scorer.context - 1
    ids = np.array(tokenizer.encode(text[: _MOST_TOKENS * 16]), np.int32)[:_MOST_TOKENS]
    texts, _ = sliding(ids, length, length)
    sums, counts = np.zeros(length - 1), np.zeros(length - 1)
    for _, scores in progress_bar(scorer.score(texts), total=len(texts), unit="window", desc="by position"):
        sums[: len(scores.nll)] += scores.nll
        counts[: len(scores.nll)] += 1
    return np.divide(sums, counts, out=np.full(length - 1, np.nan), where=counts > 0)
