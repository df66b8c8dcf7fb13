"""Where numbers go: files read back by their own tools, after resumes and ways back, and loggers that fail."""

import json
import math
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import run_config
from tqdm import tqdm

from jaxgpt.config import Config, LogConfig
from jaxgpt.errors import UserError
from jaxgpt.train.step_file import StepFile
from jaxgpt.train.telemetry import Log, Telemetry, of_other_hosts


def _config(run: Path, **log) -> Config:
    run.mkdir(exist_ok=True)
    return replace(run_config(run, run), log=LogConfig(**log))


def _write(telemetry: Telemetry, steps: range, shift: float = 0.0) -> None:
    for step in steps:
        telemetry.scalars(step, {"loss": step + shift})
        telemetry.progress(step, 1.0, None)
        if step % 2 == 0:
            telemetry.scalars(step, {"valid_loss": 2 * step + shift, "valid_perplexity": 1.0})
            telemetry.text(step, "sample", f"text of {step}, {shift}")


def _log(cfg: Config, start: int, steps: range, shift: float = 0.0) -> None:
    with Telemetry(cfg, {"seed": 7}, start, None) as telemetry:
        _write(telemetry, steps, shift)


def _lines(run: Path, file: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


def _column(run: Path, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in _lines(run) if name in line]


@pytest.mark.parametrize("torn", [b'{"step": 6, "lo', b'{"step": 4, "loss": 4}\n{"step": 5}\n\0\0\0', b"\xff"])
def test_lines_after_the_start_step_and_torn_lines_go(tmp_path: Path, torn: bytes) -> None:
    cfg = _config(tmp_path / "run", tensorboard=False)
    _log(cfg, 0, range(1, 6))
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(torn)  # killed while writing
    _log(cfg, 3, range(4, 6), shift=0.5)
    assert _column(tmp_path / "run", "loss") == [(1, 1), (2, 2), (3, 3), (4, 4.5), (5, 5.5)]
    assert _column(tmp_path / "run", "valid_loss") == [(2, 4), (4, 8.5)]


def test_a_torn_line_of_the_kept_past_goes_alone(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"1 a\n2 b\n3 c\xc3")
    file = StepFile(tmp_path / "log", rb"^(\d+) ", 9)
    file.write("3 c\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"1 a\n2 b\n3 c\n"


def test_samples_of_a_lost_past_go_too(tmp_path: Path) -> None:
    cfg = _config(tmp_path / "run", tensorboard=False)
    _log(cfg, 0, range(1, 6))
    _log(cfg, 3, range(4, 6), shift=0.5)
    text = (tmp_path / "run" / "samples.txt").read_text()
    assert text == "--- step 2 sample ---\ntext of 2, 0.0\n--- step 4 sample ---\ntext of 4, 0.5\n"


def test_after_a_way_back_every_log_has_each_step_once_and_events_stay(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    with Telemetry(_config(run, tensorboard=False), {}, 0, None) as telemetry:
        _write(telemetry, range(1, 7))
        telemetry.event(6, "bad_step", "loss nan", loss=math.nan, bad_in_row=2)
        telemetry.rewind(3)
        assert telemetry._bar.n == 3
        telemetry.event(3, "rollback", "from step 6 back to step 3", from_step=6)
        _write(telemetry, range(4, 8), shift=0.5)
        assert telemetry._bar.n == 7
    assert [step for step, _ in _column(run, "loss")] == list(range(1, 8))
    assert _column(run, "valid_loss") == [(2, 4), (4, 8.5), (6, 12.5)]
    assert (run / "samples.txt").read_text().count("--- step 4 ") == 1
    events = _lines(run, "events.jsonl")
    assert [(line["step"], line["kind"]) for line in events] == [(6, "bad_step"), (3, "rollback")]
    assert math.isnan(events[0]["loss"])
    assert (events[1]["message"], events[1]["from_step"]) == ("from step 6 back to step 3", 6)
    assert "step 6: loss nan" in capsys.readouterr().out
    _log(_config(run, tensorboard=False), 0, range(0))
    assert not _lines(run)
    assert _lines(run, "events.jsonl") == [pytest.approx(line, nan_ok=True) for line in events]


@pytest.mark.slow
def test_tensorboard_reads_each_step_once_after_a_resume_and_a_way_back(tmp_path: Path) -> None:
    """Read by what TensorBoard itself reads with; to it, scalars are tensors, too."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    cfg = _config(tmp_path / "run", tensorboard=True)
    _log(cfg, 0, range(1, 6))
    with Telemetry(cfg, {}, 3, None) as telemetry:
        _write(telemetry, range(4, 9), shift=0.25)
        telemetry.rewind(5)
        telemetry.event(5, "rollback", "back")
        _write(telemetry, range(6, 8), shift=0.5)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), tensor_size_guidance={"loss": 0})
    events.Reload()
    read = {
        tag: [(event.step, make_ndarray(event.tensor_proto).reshape(-1)[0]) for event in events.Tensors(tag)]
        for tag in ("loss", "valid_loss", "sample", "events/rollback")
    }
    assert read == {
        "loss": [(1, 1), (2, 2), (3, 3), (4, 4.25), (5, 5.25), (6, 6.5), (7, 7.5)],
        "valid_loss": [(2, 4), (4, 8.25), (6, 12.5)],
        "sample": [(2, b"text of 2, 0.0"), (4, b"text of 4, 0.25"), (6, b"text of 6, 0.5")],
        "events/rollback": [(5, b"back")],
    }


def test_files_of_a_run_by_default_beside_tensorboard(tmp_path: Path, monkeypatch) -> None:
    assert Config(output="x").log.wandb.mode == "disabled"
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    _log(_config(tmp_path / "run", tensorboard=False), 0, range(1, 3))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "eval_log.txt",
        "events.jsonl",
        "metrics.jsonl",
        "samples.txt",
        "train_log.txt",
    ]


def test_tensorboard_asked_for_but_absent_is_a_users_mistake(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(UserError, match=r"log\.tensorboard is true but tensorboard is not installed"):
        Telemetry(_config(tmp_path / "run", tensorboard=True), {}, 0, None)


class _Failing:
    """A logger without a disk."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        raise OSError(28, "No space left on device")

    def scalars(self, step: int, values: dict) -> None:
        self._fail("scalars")

    def text(self, step: int, tag: str, text: str) -> None:
        self._fail("text")

    def event(self, step: int, kind: str, message: str, values: dict) -> None:
        self._fail("event")

    def rewind(self, step: int) -> None:
        self._fail("rewind")

    def close(self) -> None:
        self._fail("close")


def test_a_logger_that_fails_is_named_once_and_stops_nothing(tmp_path: Path, capsys) -> None:
    failing = _Failing()
    with Telemetry(_config(tmp_path / "run", tensorboard=False), {}, 0, None) as telemetry:
        telemetry._loggers.insert(0, failing)
        _write(telemetry, range(1, 3))
        telemetry.event(2, "kind", "message")
        telemetry.rewind(1)
        _write(telemetry, range(2, 4))
    assert set(failing.calls) == {"scalars", "text", "event", "rewind", "close"}
    assert capsys.readouterr().out.count("_Failing: [Errno 28] No space left on device; the training goes on") == 1
    assert _column(tmp_path / "run", "loss") == [(1, 1), (2, 2), (3, 3)]


def test_loggers_are_closed_when_the_run_fails(tmp_path: Path) -> None:
    failing = [_Failing(), _Failing()]
    telemetry = Telemetry(_config(tmp_path / "run", tensorboard=False), {}, 0, None)
    telemetry._loggers = [failing[0], *telemetry._loggers, failing[1]]
    with pytest.raises(RuntimeError, match="training failed"), telemetry:
        raise RuntimeError("training failed")
    assert [logger.calls for logger in failing] == [["close"], ["close"]]
    assert telemetry._bar not in tqdm._instances


def test_a_disk_that_was_full_for_a_while_leaves_whole_lines(tmp_path: Path) -> None:
    """The limit on a file's size is a disk's end that a test can move; a process gets the same kind of error."""
    file = StepFile(tmp_path / "log", rb"^(\d+) ", 0)
    file.write("1 one\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            file.write("2 two\n")  # three bytes of it fit
        torn = (tmp_path / "log").read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    file.write("3 three\n")
    assert torn == b"1 one\n2 t"
    assert (tmp_path / "log").read_bytes() == b"1 one\n2 two\n3 three\n"
    file.cut(2)
    file.write("3 again\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"1 one\n2 two\n3 again\n"


def test_the_progress_bar_shows_step_loss_and_speed(tmp_path: Path, capsys) -> None:
    with Telemetry(_config(tmp_path / "run", tensorboard=False), {}, 4, None) as telemetry:
        telemetry.progress(5, 2.5, None)
        assert "tok_s" not in telemetry._bar.postfix
        telemetry.progress(6, 2.25, 12345.6)
        telemetry.say("a line")
    assert "loss=2.250, tok_s=12,346" in telemetry._bar.postfix
    assert "6/12" in capsys.readouterr().err


def test_other_hosts_say_and_write_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with of_other_hosts(_config(tmp_path / "run", tensorboard=True), 0) as log:
        tell(log)
        assert log.wandb_id is None
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert not list((tmp_path / "run").iterdir())
    assert capsys.readouterr() == ("", "")


def tell(log: Log) -> None:
    log.scalars(1, {"loss": 1.0})
    log.text(1, "sample", "text")
    log.event(1, "kind", "message", value=1.0)
    log.progress(2, 1.5, None)
    log.say("line")
    log.rewind(1)


def test_other_hosts_have_a_bar_where_it_is_asked_for(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with of_other_hosts(_config(tmp_path / "run", all_hosts=True), 0) as log:
        tell(log)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]
    assert not list((tmp_path / "run").iterdir())
    out, error = capsys.readouterr()
    assert out == ""
    assert "run" in error
    assert "loss=1.500" in error
    assert "1/12" in error


def test_a_line_in_all_files_takes_well_under_a_millisecond(tmp_path: Path) -> None:
    values = {"loss": 1.0, "tokens": 9, "tokens_total": 10, "epoch": 0} | {f"value_{i}": i / 7 for i in range(20)}
    seconds = []
    with Telemetry(_config(tmp_path / "run", tensorboard=True), {}, 0, None) as telemetry:
        for step in range(1, 101):
            began = time.perf_counter()
            telemetry.scalars(step, values)
            seconds.append(time.perf_counter() - began)
    assert sorted(seconds)[50] < 1e-3
    assert os.path.getsize(tmp_path / "run" / "metrics.jsonl") > 100 * 200
