"""Logs that need no service: JSON lines and samples, and TensorBoard's event files."""

import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from jaxgpt.errors import UserError
from jaxgpt.train.step_file import StepFile

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
SAMPLES = "samples.txt"
FOLDER = "tensorboard"


class Logger(Protocol):
    """One place where numbers go. Steps never fall, except after `rewind`: what was logged of later steps is lost."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def text(self, step: int, tag: str, text: str) -> None: ...
    def event(self, step: int, kind: str, message: str, values: dict[str, float | str]) -> None: ...
    def rewind(self, step: int) -> None: ...
    def close(self) -> None: ...


class JsonLines:
    """One object per line in metrics.jsonl: step, and whatever was measured; texts go to samples.txt.

    events.jsonl is never cut: it also tells of what was lost. Values that are no number are written as Python's json
    does, NaN and Infinity.
    """

    def __init__(self, run: Path, start_step: int):
        self._metrics = StepFile(run / METRICS, rb'^\{"step": (\d+)', start_step)
        self._samples = StepFile(run / SAMPLES, rb"^--- step (\d+) ", start_step)
        self._events = StepFile(run / EVENTS, rb'^\{"step": (\d+)', sys.maxsize)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")

    def text(self, step: int, tag: str, text: str) -> None:
        self._samples.write(f"--- step {step} {tag} ---\n{text}\n")

    def event(self, step: int, kind: str, message: str, values: dict[str, float | str]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._events.write(json.dumps({"step": step, "time": now, "kind": kind, "message": message, **values}) + "\n")

    def rewind(self, step: int) -> None:
        self._metrics.cut(step)
        self._samples.cut(step)

    def close(self) -> None:
        for file in (self._metrics, self._samples, self._events):
            file.close()


class TensorBoard:
    """Event files that `tensorboard --logdir runs` shows, written without TensorFlow."""

    def __init__(self, run: Path, start_step: int):
        # Only the protocol buffers and the record framing: the package's writers would import TensorFlow.
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise UserError(
                "log.tensorboard is true but tensorboard is not installed; pip install tensorboard, or set it to false"
            ) from None
        self._event, self._summary = event_pb2, summary_pb2
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self.rewind(start_step)

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

    def event(self, step: int, kind: str, message: str, values: dict[str, float | str]) -> None:
        self.text(step, f"events/{kind}", message)

    def rewind(self, step: int) -> None:
        # Tells TensorBoard to forget what was said before of this step and all later ones.
        self._write(step=step + 1, session_log=self._event.SessionLog(status=self._event.SessionLog.START))

    def close(self) -> None:
        self._file.close()
