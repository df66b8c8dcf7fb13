"""Where a run's numbers go: metrics.jsonl always, TensorBoard and Weights & Biases as configured, a progress bar."""

import json
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from jaxgpt.config import Config, WandbConfig
from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar

METRICS = "metrics.jsonl"


class Logger(Protocol):
    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def text(self, step: int, tag: str, text: str) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One object per line: step, and whatever was measured. Lines after `start_step` are of a lost past and go."""

    def __init__(self, run: Path, start_step: int):
        path = run / METRICS
        if path.is_file():
            write_text(path, "".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= start_step))
        samples = run / "samples.txt"
        if samples.is_file():
            entries = re.split(r"(?m)^(?=--- step \d+ )", samples.read_text(encoding="utf-8"))[1:]
            write_text(samples, "".join(entry for entry in entries if int(entry.split()[2]) <= start_step))
        self._file = path.open("a", encoding="utf-8")
        self._samples = samples.open("a", encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def text(self, step: int, tag: str, text: str) -> None:
        self._samples.write(f"--- step {step} {tag} ---\n{text}\n")
        self._samples.flush()

    def close(self) -> None:
        self._file.close()
        self._samples.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines that end; the last one of a killed process may not."""
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


class TensorBoard:
    """Event files that `tensorboard --logdir runs` shows, written without TensorFlow."""

    def __init__(self, run: Path, start_step: int):
        # Only the protocol buffers and the record framing: the package's writers would import TensorFlow.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # Tells TensorBoard to forget what earlier files say of later steps.
        self._write(step=start_step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _write(self, **fields: Any) -> None:
        self._writer.write(self._event.Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        entries = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self._summary.Summary(value=entries))

    def text(self, step: int, tag: str, text: str) -> None:
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        value = self._summary.Summary.Value(
            tag=tag,
            metadata=self._summary.SummaryMetadata(
                plugin_data=self._summary.SummaryMetadata.PluginData(plugin_name="text")
            ),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
        )
        self._write(step=step, summary=self._summary.Summary(value=[value]))

    def close(self) -> None:
        self._file.close()


class Wandb:
    """Weights & Biases; `id` continues a run there."""

    def __init__(self, run: Path, cfg: WandbConfig, config: dict[str, Any], run_id: str | None):
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"log.wandb.mode is {cfg.mode} but wandb is not installed; pip install wandb, or set it to disabled"
            ) from None
        self._text = wandb.Html
        self._run = wandb.init(
            mode=cfg.mode,
            project=cfg.project,
            entity=cfg.entity,
            name=run.name,
            dir=str(run),
            config=config,
            id=run_id,
            resume="allow",
        )
        self.id: str = self._run.id

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def text(self, step: int, tag: str, text: str) -> None:
        import html

        self._run.log({tag: self._text(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def close(self) -> None:
        self._run.finish()


class Telemetry:
    """All loggers of a run as one, and its progress bar. Use as a context."""

    def __init__(self, cfg: Config, config: dict[str, Any], start_step: int, wandb_id: str | None):
        run = Path(cfg.output)
        self._loggers: list[Logger] = [JsonLines(run, start_step)]
        self.wandb_id = wandb_id
        if cfg.log.tensorboard:
            self._loggers.append(TensorBoard(run, start_step))
        if cfg.log.wandb.mode != "disabled":
            wandb = Wandb(run, cfg.log.wandb, config, wandb_id)
            self.wandb_id = wandb.id
            self._loggers.append(wandb)
        self._bar = progress_bar(total=cfg.train.max_steps, initial=start_step, unit="step", desc=run.name)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for logger in self._loggers:
            logger.scalars(step, values)

    def text(self, step: int, tag: str, text: str) -> None:
        for logger in self._loggers:
            logger.text(step, tag, text)

    def progress(self, loss: float, tokens_per_second: float) -> None:
        """One step further."""
        self._bar.update(1)
        self._bar.set_postfix(loss=f"{loss:.3f}", tok_s=f"{tokens_per_second:,.0f}", refresh=False)

    def say(self, line: str) -> None:
        """A line above the progress bar."""
        tqdm.write(line)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self._bar.close)
            for logger in self._loggers:
                stack.callback(logger.close)
