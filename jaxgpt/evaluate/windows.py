"""How a text that is longer than a model's context is cut, so that each token is predicted once (or left out)."""

from collections.abc import Sequence

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.evaluate.scoring import Text


def check_windows(context: int, stride: int, longest: int) -> None:
    """longest: tokens that the model takes."""
    if not 1 < context <= longest:
        raise UserError(f"--context is {context}; the model takes 2 to {longest} tokens")
    if not 0 < stride <= context:
        raise UserError(f"--stride is {stride}; it must be 1 to --context {context}, or tokens would be left out")


def sliding(ids: np.ndarray, context: int, stride: int) -> tuple[list[Text], list[int]]:
    """Windows of `context` tokens, `stride` apart, that predict what no window before them did; and where they begin.

    A window's own first token is predicted by nothing: that of the text and, where stride is context, of every window.
    Source: the loop of Hugging Face's guide "Perplexity of fixed-length models".
    """
    windows, begins, done = [], [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        first = max(done - begin, 1)
        if end - begin > first:
            windows.append(Text(ids[begin:end], first))
            begins.append(begin)
        done = end
        if end == len(ids):
            break
    return windows, begins


def rolling(ids: np.ndarray, before: int, context: int) -> list[Text]:
    """Windows that predict every token of a text, `context` at once and the last ones with as much before them.

    The first token is predicted from `before`, the id of end-of-text. Source: rolling log-likelihoods of EleutherAI's
    lm-evaluation-harness, with one token of context between windows.
    """
    ids = np.concatenate([[before], ids])
    windows = []
    for begin in range(1, len(ids), context):
        end = min(begin + context, len(ids))
        start = max(end - context - 1, 0)
        windows.append(Text(ids[start:end], begin - start))
    return windows


def continuation(before: Sequence[int], after: Sequence[int], context: int) -> Text:
    """`after` as a continuation of `before`, of which the first tokens are left out where all are too many."""
    n = min(len(before) + len(after), context + 1)
    ids = np.array([*before, *after][-n:])
    return Text(ids, n - len(after))
