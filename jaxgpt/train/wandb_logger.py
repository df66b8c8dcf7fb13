"""Weights & Biases, which never stops a training: without a key or a network it writes to the run's folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jaxgpt.config import WandbConfig
from jaxgpt.errors import UserError

_INIT_SECONDS = 30  # of trying to reach the service at the start
_FINISH_SECONDS = 300  # of uploading at the end; what is left stays on disk


class Wandb:
    """`run_id` continues a run there.

    Charts are over our `step`. W&B's own counter, which must not fall, is ahead of it after a rewind and where a killed
    process had logged more than its last checkpoint; lines of the lost past stay in the history, under the same steps.
    Offline, every start of a run is a folder of its own; `wandb sync` sends those of one run in their order.

    say: takes a line for the user. Raises UserError where wandb is asked for and not installed.
    """

    def __init__(
        self,
        run: Path,
        cfg: WandbConfig,
        config: dict[str, Any],
        run_id: str | None,
        start_step: int,
        say: Callable[[str], None],
    ):
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"log.wandb.mode is {cfg.mode} but wandb is not installed; pip install wandb, or set it to disabled"
            ) from None
        self._say, self._failed = say, False
        self._html, self._run = wandb.Html, None
        self.id = run_id

        def begin(mode: Literal["online", "offline"]) -> Any:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                raise ValueError("no API key; `wandb login` stores one")
            return wandb.init(
                mode=mode,
                project=cfg.project,
                entity=cfg.entity,
                name=run.name,
                dir=str(run.resolve()),
                config=config,
                id=run_id,
                resume="allow",
                settings=wandb.Settings(init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS),
            )

        if cfg.mode == "online":
            self._run = self._tried("it writes to the run's folder, for `wandb sync`", lambda: begin("online"))
            if self._run is None:
                self._tried("", wandb.teardown)  # its service would still hold the run's id
            self._failed = False
        if self._run is None:
            self._run = self._tried("nothing goes there", lambda: begin("offline"))
        if self._run is None:
            return
        self.id = self._run.id
        self._ahead = max(0, self._run.starting_step - start_step)  # of its counter before our steps
        self._newest = start_step
        self._tried("its charts are over its own counter", lambda: self._chart(self._run))

    @staticmethod
    def _chart(run: Any) -> None:
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def _tried(self, instead: str, action: Callable[[], Any]) -> Any:
        """None where it failed, which is said once."""
        try:
            return action()
        except Exception as error:  # whatever it is, the training is worth more
            if not self._failed:
                self._say(f"Weights & Biases: {' '.join(str(error).split())} ({type(error).__name__}); {instead}")
            self._failed = True
            return None

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if self._run is None:
            return
        run, self._newest = self._run, max(self._newest, step)
        self._tried("lines may be missing there", lambda: run.log({"step": step, **values}, step=step + self._ahead))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._log(step, values)

    def text(self, step: int, tag: str, text: str) -> None:
        import html

        self._log(step, {tag: self._html(f"<pre>{html.escape(text)}</pre>")})

    def event(self, step: int, kind: str, message: str, values: dict[str, float | str]) -> None:
        self._log(step, {f"events/{kind}": message})

    def rewind(self, step: int) -> None:
        if self._run is not None:
            self._ahead += self._newest + 1 - step
            self._newest = step

    def close(self) -> None:
        if self._run is not None:
            self._tried("lines may be missing there", self._run.finish)
