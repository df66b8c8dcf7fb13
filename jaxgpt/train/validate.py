"""The negative log-likelihood of a split: what validation and `jaxgpt perplexity` both report."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import jax
import numpy as np

from jaxgpt.data.loader import Pages, evaluation_batches, prefetch
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params
from jaxgpt.train.parallel import EvalStep, Parallel, check_batch
from jaxgpt.train.step import STOPS, Metrics


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
    eval_step: EvalStep,
    params: Params,
    pages: Pages,
    batch_size: int,
    limit: int = 0,
    process: tuple[int, int] = (0, 1),
    progress: Callable[[Iterator[dict[str, np.ndarray]]], Iterator[dict[str, np.ndarray]]] = lambda batches: batches,
) -> SplitLoss | None:
    """Σ nll and Σ tokens over the split, or over its first `limit` batches; sums across batches are float64.

    process: this one's number, and how many there are. None where a batch said that a host asks for an end.
    """
    check_batch(len(parallel.devices), batch_size)
    total, pending = SplitLoss(0.0, 0), None
    with closing(prefetch(evaluation_batches(pages, batch_size, limit, *process), 2)) as batches:
        for batch in progress(batches):
            sums = eval_step(params, parallel.split(batch))
            # Read one batch late: the devices are at work on the next one meanwhile.
            total, stopped = _add(total, pending)
            if stopped:
                return None
            pending = sums
    total, stopped = _add(total, pending)
    if not stopped and not total.tokens:
        raise UserError(
            f"no token counts in the first {limit} batches of the split {pages.split!r}; raise eval.batches, or set it "
            "to 0 for the whole split"
        )
    return None if stopped else total


def _add(total: SplitLoss, sums: Metrics | None) -> tuple[SplitLoss, bool]:
    if sums is None:
        return total, False
    host = jax.device_get(sums)
    new = SplitLoss(total.nll_sum + float(host["nll_sum"]), total.tokens + int(host["tokens"]))
    return new, bool(host[STOPS])
