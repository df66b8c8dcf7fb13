"""Where numbers go: each logger's files read back by its own tool."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import run_config
from tqdm import tqdm

from jaxgpt.config import Config, LogConfig, WandbConfig
from jaxgpt.errors import UserError
from jaxgpt.train.telemetry import Telemetry, Wandb


def _config(run: Path, **log) -> Config:
    run.mkdir(exist_ok=True)
    return replace(run_config(run, run), log=LogConfig(**log))


def _log(cfg: Config, start: int, steps: range, shift: float = 0.0) -> str | None:
    with Telemetry(cfg, {"seed": 7}, start, None) as telemetry:
        for step in steps:
            telemetry.scalars(step, {"loss": step + shift})
            telemetry.progress(step, 1.0)
            if step % 2 == 0:
                telemetry.scalars(step, {"valid_loss": 2 * step + shift})
                telemetry.text(step, "sample", f"text of {step}")
        return telemetry.wandb_id


def _lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_start_step_and_torn_lines_go(tmp_path: Path) -> None:
    cfg = _config(tmp_path / "run", tensorboard=False)
    _log(cfg, 0, range(1, 6))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    _log(cfg, 3, range(4, 6), shift=0.5)
    assert [(line["step"], line["loss"]) for line in _lines(tmp_path / "run") if "loss" in line] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4.5),
        (5, 5.5),
    ]
    assert [(line["step"], line["valid_loss"]) for line in _lines(tmp_path / "run") if "valid_loss" in line] == [
        (2, 4),
        (4, 8.5),
    ]


def test_samples_of_a_lost_past_go_too(tmp_path: Path) -> None:
    cfg = _config(tmp_path / "run", tensorboard=False)
    _log(cfg, 0, range(1, 6))
    _log(cfg, 3, range(4, 6))
    text = (tmp_path / "run" / "samples.txt").read_text()
    assert [text.count(f"--- step {step} sample ---\ntext of {step}\n") for step in (2, 4)] == [1, 1]


def test_tensorboard_reads_each_step_once_after_a_restart(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = _config(tmp_path / "run", tensorboard=True)
    _log(cfg, 0, range(1, 6))
    _log(cfg, 3, range(4, 8), shift=0.5)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4.5),
        (5, 5.5),
        (6, 6.5),
        (7, 7.5),
    ]
    assert [event.step for event in events.Scalars("valid_loss")] == [2, 4, 6]
    texts = {event.step: event.tensor_proto.string_val[0] for event in events.Tensors("sample")}
    assert texts == {2: b"text of 2", 4: b"text of 4", 6: b"text of 6"}


def test_only_metrics_are_written_by_default_beside_tensorboard(tmp_path: Path, monkeypatch) -> None:
    assert Config(output="x").log.wandb.mode == "disabled"
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    _log(_config(tmp_path / "run", tensorboard=False), 0, range(1, 3))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "samples.txt"]


def test_wandb_asked_for_but_absent_is_a_users_mistake(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log\.wandb\.mode is offline but wandb is not installed"):
        Wandb(tmp_path, WandbConfig(mode="offline"), {}, None)


@pytest.mark.slow
def test_wandb_offline_writes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    cfg = _config(tmp_path / "run", tensorboard=False, wandb=WandbConfig(mode="offline", project="tests"))
    run_id = _log(cfg, 0, range(1, 4))
    assert run_id
    (file,) = (tmp_path / "run").glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")
    assert file.stat().st_size > 0
    assert [line["loss"] for line in _lines(tmp_path / "run") if "loss" in line] == [1, 2, 3]


def test_loggers_are_closed_when_the_run_fails(tmp_path: Path) -> None:
    closed = []

    class Logger:
        def scalars(self, step: int, values: dict) -> None: ...
        def text(self, step: int, tag: str, text: str) -> None: ...

        def close(self) -> None:
            closed.append(self)
            raise OSError("disk is gone")

    telemetry = Telemetry(_config(tmp_path / "run", tensorboard=False), {}, 0, None)
    telemetry._loggers += [Logger(), Logger()]
    with pytest.raises(OSError, match="disk is gone"), telemetry:
        raise RuntimeError("training failed")
    assert len(closed) == 2
    assert telemetry._bar not in tqdm._instances
