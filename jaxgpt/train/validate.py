"""The negative log-likelihood of a split: what validation and `jaxgpt perplexity` both report."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxgpt.data.loader import Pages, evaluation_batches, prefetch
from jaxgpt.model.stack import Params
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.step import Batch, Metrics


class SplitLoss(NamedTuple):
    """nll_sum: nats over all counted targets; tokens: their number."""

    nll_sum: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nll_sum / self.tokens

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))


def split_loss(
    parallel: Parallel,
    eval_step: Callable[[Params, Batch], Metrics],
    params: Params,
    pages: Pages,
    batch_size: int,
    limit: int = 0,
    progress: Callable[[Iterator[dict[str, np.ndarray]]], Iterator[dict[str, np.ndarray]]] = lambda batches: batches,
) -> SplitLoss:
    """Σ nll and Σ tokens over the split, or over its first `limit` batches; sums across batches are float64."""
    parallel.check_batch(batch_size)
    batches = progress(prefetch(evaluation_batches(pages, batch_size, limit), 2))
    nll_sum, tokens, pending = 0.0, 0, None
    for batch in batches:
        sums = eval_step(params, parallel.split(batch))
        # Read one batch late: the devices are at work on the next one meanwhile.
        nll_sum, tokens = _add(nll_sum, tokens, pending)
        pending = sums
    return SplitLoss(*_add(nll_sum, tokens, pending))


def _add(nll_sum: float, tokens: int, sums: Metrics | None) -> tuple[float, int]:
    if sums is None:
        return nll_sum, tokens
    host = jax.device_get(sums)
    return nll_sum + float(host["nll_sum"]), tokens + int(host["tokens"])
