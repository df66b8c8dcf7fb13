"""Weights & Biases: what it stores, and that nothing it does stops a training."""

import json
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import run_python

from jaxgpt.config import WandbConfig
from jaxgpt.errors import UserError
from jaxgpt.train.wandb_logger import Wandb


def _history(file: Path) -> list[dict[str, Any]]:
    """The logged lines of a .wandb file: records of a LevelDB log behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2 as proto

    def records(data: bytes) -> Iterator[Any]:
        at, parts = 7, b""
        while at < len(data):
            left = 32768 - at % 32768  # of the block; a record's own header takes seven
            if left < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                yield proto.Record.FromString(parts)
                parts = b""

    found = [record.history for record in records(file.read_bytes()) if record.HasField("history")]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in line.item} for line in found]


def _columns(lines: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(line.get(name) for name in names) for line in lines]


@pytest.mark.slow
def test_offline_no_line_is_dropped_after_a_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    log = Wandb(tmp_path, WandbConfig(mode="offline", project="tests"), {"seed": 7}, "an-id", 2, pytest.fail)
    assert log.id == "an-id"
    for step in range(3, 6):
        log.scalars(step, {"loss": float(step)})
    log.scalars(5, {"valid_loss": 9.0})
    log.rewind(3)
    log.event(3, "rollback", "from step 5 back to step 3", {"from_step": 5.0})
    for step in range(4, 6):
        log.scalars(step, {"loss": step + 0.5})
    log.text(5, "sample", "<a>")
    log.close()
    sys.modules["wandb"].teardown()  # or other tests' processes would use its service
    (file,) = tmp_path.glob("wandb/offline-run-*-an-id/run-an-id.wandb")
    lines = _history(file)
    assert _columns(lines, "step", "loss", "valid_loss") == [
        (3, 3.0, None),
        (4, 4.0, None),
        (5, 5.0, 9.0),
        (3, None, None),
        (4, 4.5, None),
        (5, 5.5, None),
    ]
    assert _columns(lines, "_step") == [(3,), (4,), (5,), (6,), (7,), (8,)]
    assert lines[3]["events/rollback"] == "from step 5 back to step 3"
    (page,) = tmp_path.glob("wandb/offline-run-*/files/media/html/sample*.html")
    assert "<pre>&lt;a&gt;</pre>" in page.read_text()


_ONLINE = """
import os, sys
from pathlib import Path
os.environ.update(WANDB_CONFIG_DIR="c", WANDB_CACHE_DIR="c", WANDB_DATA_DIR="c", HOME=os.getcwd(), WANDB_SILENT="true")
os.environ.update({environment!r})
from jaxgpt.config import WandbConfig
from jaxgpt.train import wandb_logger
wandb_logger._INIT_SECONDS = 1
Path("run").mkdir()
log = wandb_logger.Wandb(Path("run"), WandbConfig(mode="online"), {{}}, "an-id", 0, print)
log.scalars(1, {{"loss": 1.5}})
log.close()
print("id", log.id)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "Weights & Biases: no API key; `wandb login` stores one (ValueError)"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}, "connection refused"),
    ],
    ids=["no key", "no network"],
)
def test_online_without_key_or_network_goes_on_offline(
    tmp_path: Path, environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    done = run_python(_ONLINE.format(environment=environment), tmp_path)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert said in first
    assert first.endswith("; it writes to the run's folder, for `wandb sync`")
    assert last == "id an-id"
    (file,) = tmp_path.glob("run/wandb/offline-run-*-an-id/run-an-id.wandb")
    assert _columns(_history(file), "step", "loss") == [(1, 1.5)]


class _Run:
    """A run at the service, as the calls of ours see it."""

    def __init__(self, service: "_Service"):
        self.service, self.id, self.starting_step = service, "its-id", service.starting_step

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.service.axes[name] = step_metric

    def log(self, values: dict[str, Any], step: int) -> None:
        self.service.called("log")
        self.service.lines.append((step, values))

    def finish(self) -> None:
        self.service.called("finish")


class _Service(types.ModuleType):
    """Stands in for the package `wandb`; the calls named in `failing` raise."""

    def __init__(self, starting_step: int = 0, failing: tuple[str, ...] = ()):
        super().__init__("wandb")
        self.starting_step, self.failing = starting_step, failing
        self.inits: list[dict[str, Any]] = []
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.axes: dict[str, str | None] = {}
        self.ended = 0
        self.Html, self.Settings = str, dict

    def called(self, name: str) -> None:
        if name in self.failing:
            raise RuntimeError(f"{name} failed\n  in two lines")

    def login(self, prompt: bool, verify: bool) -> bool:
        assert not prompt  # it would wait for somebody at the keyboard
        assert not verify  # init does, with a limit on its time
        return True

    def teardown(self) -> None:
        self.ended += 1

    def init(self, **options: Any) -> _Run:
        self.inits.append(options)
        self.called(f"init {options['mode']}")
        return _Run(self)


def _wandb(service: _Service, monkeypatch: pytest.MonkeyPatch, mode: Any = "online", start: int = 0) -> Any:
    monkeypatch.setitem(sys.modules, "wandb", service)
    said: list[str] = []
    return Wandb(
        Path("runs/name"), WandbConfig(mode=mode, project="p", entity="e"), {"a": 1}, "id", start, said.append
    ), said


def test_a_resumed_run_goes_on_behind_all_that_the_service_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that was killed had logged up to step 50; the checkpoint was of step 40."""
    service = _Service(starting_step=51)
    log, said = _wandb(service, monkeypatch, start=40)
    log.scalars(40, {"valid_loss": 1.0})
    log.scalars(41, {"loss": 2.0})
    log.rewind(40)
    log.scalars(41, {"loss": 3.0})
    log.close()
    assert service.lines == [
        (51, {"step": 40, "valid_loss": 1.0}),
        (52, {"step": 41, "loss": 2.0}),
        (54, {"step": 41, "loss": 3.0}),
    ]
    assert service.axes == {"step": None, "*": "step"}
    (options,) = service.inits
    assert {name: options[name] for name in ("mode", "project", "entity", "name", "id", "resume", "config")} == {
        "mode": "online",
        "project": "p",
        "entity": "e",
        "name": "name",
        "id": "id",
        "resume": "allow",
        "config": {"a": 1},
    }
    assert options["settings"]["init_timeout"] <= 60
    assert (log.id, said) == ("its-id", [])


def test_errors_of_log_calls_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log, said = _wandb(_Service(failing=("log", "finish")), monkeypatch, "offline")
    for step in range(1, 4):
        log.scalars(step, {"loss": 1.0})
        log.text(step, "sample", "text")
        log.event(step, "kind", "message", {})
    log.close()
    assert said == ["Weights & Biases: log failed in two lines (RuntimeError); lines may be missing there"]


def test_without_any_way_to_begin_the_rest_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    service = _Service(failing=("init online", "init offline"))
    log, said = _wandb(service, monkeypatch)
    log.scalars(1, {"loss": 1.0})
    log.rewind(0)
    log.close()
    assert log.id == "id"  # the next start may have more luck
    assert [line.split("; ")[1] for line in said] == [
        "it writes to the run's folder, for `wandb sync`",
        "nothing goes there",
    ]
    assert not service.lines
    assert service.ended == 1


def test_asked_for_but_absent_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log\.wandb\.mode is offline but wandb is not installed"):
        Wandb(tmp_path, WandbConfig(mode="offline"), {}, None, 0, print)
