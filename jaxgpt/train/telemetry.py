"""Where a run's numbers go: files always, TensorBoard and Weights & Biases as configured, a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from jaxgpt.config import Config
from jaxgpt.progress import progress_bar
from jaxgpt.train.dialogpt_logs import DialoGPTLogs
from jaxgpt.train.loggers import JsonLines, Logger, TensorBoard
from jaxgpt.train.wandb_logger import Wandb


class Log(Protocol):
    """What the training loop says, on every host.

    wandb_id: by which the run is continued at Weights & Biases. Steps never fall, except after `rewind`.
    """

    wandb_id: str | None

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def text(self, step: int, tag: str, text: str) -> None: ...
    def event(self, step: int, kind: str, message: str, **values: float | str) -> None: ...
    def progress(self, step: int, loss: float, tokens_per_second: float | None) -> None: ...
    def say(self, line: str) -> None: ...
    def rewind(self, step: int) -> None: ...


class Telemetry:
    """All loggers of a run as one, and its progress bar: the first host's. Use as a context.

    A logger that fails, on a full disk for instance, is named once and does not stop the training.

    config: the run's, resolved; start_step: the logs keep what is of steps up to it; wandb_id: of a resumed run.
    Raises UserError where a package is missing that the configuration asks for.
    """

    def __init__(self, cfg: Config, config: dict[str, Any], start_step: int, wandb_id: str | None):
        run = Path(cfg.output)
        self._loggers: list[Logger] = [
            JsonLines(run, start_step),
            DialoGPTLogs(run, start_step, cfg.train.microbatches),
        ]
        self._failed: set[Logger] = set()
        self.wandb_id = wandb_id
        if cfg.log.tensorboard:
            self._loggers.append(TensorBoard(run, start_step))
        if cfg.log.wandb.mode != "disabled":
            wandb = Wandb(run, cfg.log.wandb, config, wandb_id, start_step, self.say)
            self.wandb_id = wandb.id
            self._loggers.append(wandb)
        self._bar = _bar(cfg, start_step)

    def _to_all(self, send: Callable[[Logger], None]) -> None:
        for logger in self._loggers:
            try:
                send(logger)
            except OSError as error:
                if logger not in self._failed:
                    self._failed.add(logger)
                    self.say(f"{type(logger).__name__}: {error}; the training goes on, its log may miss lines")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of this step; values that are not known are left out."""
        self._to_all(lambda logger: logger.scalars(step, values))

    def text(self, step: int, tag: str, text: str) -> None:
        self._to_all(lambda logger: logger.text(step, tag, text))

    def event(self, step: int, kind: str, message: str, **values: float | str) -> None:
        """Something that should not happen often; it is also said, and events.jsonl keeps it whatever comes later."""
        self._to_all(lambda logger: logger.event(step, kind, message, values))
        self.say(f"step {step}: {message}")

    def progress(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        """`step` is done; tokens_per_second: None while it is not known."""
        _advance(self._bar, step, loss, tokens_per_second)

    def say(self, line: str) -> None:
        """A line above the progress bar."""
        tqdm.write(line)

    def rewind(self, step: int) -> None:
        """The run goes back to this step: what was logged of later ones is of a lost past."""
        self._to_all(lambda logger: logger.rewind(step))
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if (
            kind is not KeyboardInterrupt
        ):  # whoever insists on leaving waits for nothing; what was written is in the files
            self._to_all(lambda logger: logger.close())


class _Silent:
    wandb_id: str | None = None

    def scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def text(self, step: int, tag: str, text: str) -> None:
        pass

    def event(self, step: int, kind: str, message: str, **values: float | str) -> None:
        pass

    def progress(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass


class _BarAlone(_Silent):
    def __init__(self, bar: tqdm):
        self._bar = bar

    def progress(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        _advance(self._bar, step, loss, tokens_per_second)

    def rewind(self, step: int) -> None:
        self._bar.update(step - self._bar.n)


@contextmanager
def of_other_hosts(cfg: Config, start_step: int) -> Iterator[Log]:
    """What all hosts but the first get: the same calls, of which nothing comes but a bar, where it is asked for."""
    if not cfg.log.all_hosts:
        yield _Silent()
        return
    with _bar(cfg, start_step) as bar:
        yield _BarAlone(bar)


def _bar(cfg: Config, start_step: int) -> tqdm:
    return progress_bar(total=cfg.train.max_steps, initial=start_step, unit="step", desc=Path(cfg.output).name)


def _advance(bar: tqdm, step: int, loss: float, tokens_per_second: float | None) -> None:
    speed = {} if tokens_per_second is None else {"tok_s": f"{tokens_per_second:,.0f}"}
    bar.set_postfix(loss=f"{loss:.3f}", **speed, refresh=False)
    bar.update(step - bar.n)
