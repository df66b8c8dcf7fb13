"""train_log.txt and eval_log.txt in the columns of DialoGPT, for scripts that read them.

Source: microsoft/DialoGPT, LSP_train.py. Means, tokens and seconds are of the epoch so far; epochs count from 1;
global_step counts optimizer steps, step counts microbatches. DialoGPT adds 1 to both; here they are what was done.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.errors import UserError
from jaxgpt.train.step_file import StepFile

_BEGINS = rb"^\d+,(\d+),"
TRAIN_LOG, EVAL_LOG = "train_log.txt", "eval_log.txt"
_TRAIN = "epoch,global_step,step,mean_loss,mean_ppl,n_token_real,n_token_total,epoch_time\n"
_EVAL = "epoch,global_step,step,eval_loss,eval_ppl\n"


@dataclass
class _Epoch:
    """So far. number: from 1; loss, perplexity: means over its tokens; began: on the clock."""

    number: int
    began: float
    loss: float = math.nan
    perplexity: float = math.nan
    real: int = 0
    total: int = 0


class DialoGPTLogs:
    """A line of training stands for all steps since the one before it, so with log.every 1 the sums are exact.

    A resumed epoch goes on from its last line. Losses that are no number leave the means as they are.
    """

    def __init__(self, run: Path, start_step: int, microbatches: int, clock: Callable[[], float] = time.monotonic):
        self._train = StepFile(run / TRAIN_LOG, _BEGINS, start_step, _TRAIN)
        self._eval = StepFile(run / EVAL_LOG, _BEGINS, start_step, _EVAL)
        self._microbatches, self._clock = microbatches, clock
        self._go_on(start_step)

    def _go_on(self, step: int) -> None:
        now, line = self._clock(), self._train.last_line()
        if line == _TRAIN.strip():
            self._step, self._epoch = step, _Epoch(1, now)
            return
        try:
            number, last_step, _, loss, perplexity, real, total, seconds = map(float, line.split(","))
        except ValueError:
            raise UserError(
                f"{self._train.path}: the last line is {line!r}, not numbers for {_TRAIN.strip()}; take the line away"
            ) from None
        self._step = int(last_step)  # steps up to it are in the sums
        self._epoch = _Epoch(int(number), now - seconds, loss, perplexity, int(real), int(total))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Of training: loss, tokens and tokens_total of one step, epoch from 0. Or valid_loss and valid_perplexity."""
        if {"loss", "tokens", "tokens_total", "epoch"} <= values.keys():
            self._train_line(step, values)
        elif "valid_loss" in values:
            loss, perplexity = values["valid_loss"], values["valid_perplexity"]
            self._eval.write(f"{self._epoch.number},{step},{step * self._microbatches},{loss:.6f},{perplexity:.4f}\n")

    def _train_line(self, step: int, values: dict[str, float]) -> None:
        number = int(values["epoch"]) + 1
        if number != self._epoch.number:
            self._epoch = _Epoch(number, self._clock())
        epoch, steps, loss = self._epoch, step - self._step, values["loss"]
        new = steps * int(values["tokens_total"])
        epoch.real += steps * int(values["tokens"])
        epoch.total += new
        share = new / epoch.total if epoch.total else 0.0
        epoch.loss = _mean(epoch.loss, loss, share)
        epoch.perplexity = _mean(epoch.perplexity, math.exp(loss) if loss < 700 else math.inf, share)
        self._step = step
        self._train.write(
            f"{number},{step},{step * self._microbatches},{epoch.loss:.6f},{epoch.perplexity:.4f},"
            f"{epoch.real},{epoch.total},{self._clock() - epoch.began:.3f}\n"
        )

    def text(self, step: int, tag: str, text: str) -> None:
        pass

    def event(self, step: int, kind: str, message: str, values: dict[str, float | str]) -> None:
        pass

    def rewind(self, step: int) -> None:
        self._train.cut(step)
        self._eval.cut(step)
        self._go_on(step)

    def close(self) -> None:
        self._train.close()
        self._eval.close()


def _mean(mean: float, value: float, share: float) -> float:
    """The mean with `value` in it, which makes up `share` of it."""
    if not math.isfinite(mean):
        return value
    return mean + share * (value - mean) if math.isfinite(value) else mean
