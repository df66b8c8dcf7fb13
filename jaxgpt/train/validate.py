"""The negative log-likelihood of a split, for validation."""

from contextlib import closing
from typing import NamedTuple

import jax
import numpy as np

from jaxgpt.data.loader import Pages, evaluation_batches, prefetch
from jaxgpt.errors import UserError
from jaxgpt.model.stack import Params
from jaxgpt.train.one_behind import one_behind
from jaxgpt.train.parallel import EvalStep, Parallel, check_batch
from jaxgpt.train.step import STOPS


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
) -> SplitLoss | None:
    """Σ nll and Σ tokens over the split, or over its first `limit` batches; sums across batches are float64.

    process: this one's number, and how many there are. None where a batch said that a host asks for an end.
    """
    check_batch(len(parallel.devices), batch_size)
    nll_sum, tokens = 0.0, 0
    with closing(prefetch(evaluation_batches(pages, batch_size, limit, *process), 2)) as batches:
        under_way = (eval_step(params, parallel.split(batch)) for batch in batches)
        for sums in map(jax.device_get, one_behind(under_way)):
            if sums[STOPS]:
                return None
            nll_sum, tokens = nll_sum + float(sums["nll_sum"]), tokens + int(sums["tokens"])
    if not tokens:
        raise UserError(
            f"no token counts in the first {limit} batches of the split {pages.split!r}; raise eval.batches, or set it "
            "to 0 for the whole split"
        )
    return SplitLoss(nll_sum, tokens)
