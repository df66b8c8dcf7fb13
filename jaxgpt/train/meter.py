"""How fast a run is, and what its time goes into."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from jaxgpt.train.device_stats import DeviceStats

What = Literal["compile", "data", "save", "evaluate"]
_COMPILING = 2  # the first steps, whose time goes to the compiler


@dataclass(frozen=True)
class _Mark:
    """The sums at one moment. at: on the clock; spent: seconds by what they went into; saves: how many."""

    at: float
    tokens: int
    steps: int
    saves: int
    spent: dict[str, float]

    def training_seconds(self, since: "_Mark") -> float:
        """What compiling, saving and evaluating left of the time between the two."""
        other = ("compile", "save", "evaluate")
        return self.at - since.at - sum(self.spent[what] - since.spent[what] for what in other)


class Meter:
    """The clock of one process's training; its time begins when it is made.

    flops_per_step: of training all tokens of a batch; peak_flops: FLOP/s of one device, None where it is not known;
    n_devices: of all hosts; clock: gives seconds.
    """

    def __init__(
        self,
        flops_per_step: float,
        peak_flops: float | None,
        n_devices: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._flops_per_step, self._clock = flops_per_step, clock
        self._peak = None if peak_flops is None else peak_flops * n_devices
        self._tokens = self._steps = self._saves = 0
        self._spent: dict[str, float] = {"compile": 0.0, "data": 0.0, "save": 0.0, "evaluate": 0.0}
        self._began = clock()
        self._compiled: _Mark | None = None  # when the first steps were done
        self._window: _Mark | None = None
        self._devices = DeviceStats()

    @contextmanager
    def during(self, what: What) -> Iterator[None]:
        """The block's time goes into `what`; blocks are not nested."""
        began = self._clock()
        try:
            yield
        finally:
            self._spent[what] += self._clock() - began
            self._saves += what == "save"

    def step_done(self, tokens: int) -> None:
        """A step's metrics have arrived. tokens: trained ones of all hosts."""
        self._steps += 1
        self._tokens += tokens
        if self._steps == _COMPILING:
            self._spent["compile"] += self._unnamed(self._mark())
            self._compiled = self._window = self._mark()

    @property
    def tokens_per_second(self) -> float | None:
        """Over all steps of this process but those that compiled; see `values`. None before there is one."""
        now, first = self._mark(), self._compiled
        if first is None or now.steps == first.steps:
            return None
        return (now.tokens - first.tokens) / now.training_seconds(first)

    def values(self) -> dict[str, float]:
        """For one line of the log; what is not known is left out. Rates are since the last call.

        tokens_per_second: tokens that count in the loss, over the time without compiling, saving and evaluating;
        step_seconds: the same time per step; data_wait_seconds: of the host for the loader, per step, while the devices
        may still be at work on the step before; checkpoint_stall_seconds: per checkpoint, in which no step ran;
        mfu: flops_per_step / step_seconds / (peak_flops * n_devices), see flops.py;
        goodput_productive, goodput_compile, goodput_data, goodput_save, goodput_evaluate: parts of the time so far, of
        sum 1; the first steps count as compile, all that is nothing else as productive;
        and what `DeviceStats.values` tells.
        """
        values: dict[str, float] = {}
        before, now = self._window, self._mark()
        if before and now.steps > before.steps:
            seconds, steps = now.training_seconds(before), now.steps - before.steps
            speed = (now.tokens - before.tokens) / seconds
            values["tokens_per_second"] = speed
            values["step_seconds"] = seconds / steps
            values["data_wait_seconds"] = (now.spent["data"] - before.spent["data"]) / steps
            if self._peak:
                values["mfu"] = self._flops_per_step * steps / seconds / self._peak
        if before and now.saves > before.saves:
            stalled = now.spent["save"] - before.spent["save"]
            values["checkpoint_stall_seconds"] = stalled / (now.saves - before.saves)
        if before:
            self._window = now
        return values | self._goodput(now) | self._devices.values()

    def _mark(self) -> _Mark:
        return _Mark(self._clock(), self._tokens, self._steps, self._saves, dict(self._spent))

    def _unnamed(self, now: _Mark) -> float:
        """Seconds that went into nothing that has a name."""
        return now.at - self._began - sum(now.spent.values())

    def _goodput(self, now: _Mark) -> dict[str, float]:
        unnamed = "compile" if self._compiled is None else "productive"
        seconds = {"productive": 0.0, **now.spent}
        seconds[unnamed] += self._unnamed(now)
        total = now.at - self._began
        return {f"goodput_{name}": part / total for name, part in seconds.items()}
