"""The perplexity of guessing each token by its frequency alone: what any language model has to beat."""

from pathlib import Path

import numpy as np

from jaxgpt.data.loader import Pages, evaluation_batches

_ROWS = 256


def _target_counts(pages: Pages) -> np.ndarray:
    counts = np.zeros(pages.manifest.vocab_size, np.int64)
    for batch in evaluation_batches(pages, _ROWS):
        counts += np.bincount(batch["targets"][batch["weights"] > 0], minlength=len(counts))
    return counts


def unigram_perplexity(folder: Path, train_split: str, split: str) -> float:
    """exp(mean nll) of `split`'s targets under their frequencies in `train_split`, one added to each count."""
    train = _target_counts(Pages(folder, train_split)) + 1
    targets = _target_counts(Pages(folder, split))
    return float(np.exp(-(targets * np.log(train / train.sum())).sum() / targets.sum()))
