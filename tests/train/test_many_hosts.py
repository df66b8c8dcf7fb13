"""Runs of several processes give the losses of one process with all devices, whatever goes on or goes wrong."""

import re
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import many_processes
import pytest
import yaml
from many_processes import Finished, free_port
from tiny import VOCABULARY, metrics_of, run_config, write_pages

from jaxgpt.config import Config, EvalConfig, ParallelConfig
from jaxgpt.model_config import ModelConfig
from jaxgpt.train import checkpoint
from jaxgpt.train.loop import train

pytestmark = pytest.mark.slow
STEPS = 7
MODEL = ModelConfig(VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pages(tmp_path_factory.mktemp("pages"))


def _config(pages: Path, run: Path, mode: str = "pmap", steps: int = STEPS, **changes: Any) -> Config:
    cfg = run_config(pages, run, steps, model=MODEL, eval=EvalConfig(every=3, batches=2, sample_tokens=2), **changes)
    return replace(cfg, parallel=ParallelConfig(mode=mode, check_every=2))


def _commands(cfg: Config, folder: Path, count: int, **options: str) -> list[list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"given-{time.monotonic_ns()}.yaml"
    file.write_text(yaml.safe_dump(asdict(cfg)))
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    where = ["--parallel.coordinator", f"127.0.0.1:{free_port()}", "--parallel.num_processes", str(count)]
    command = [sys.executable, "-m", "jaxgpt", "train", "--config", str(file), *where, *given]
    return [[*command, "--parallel.process_id", str(index)] for index in range(count)]


def _run(cfg: Config, folder: Path, count: int) -> list[Finished]:
    finished = many_processes.run_all(_commands(cfg, folder, count), folder)
    for one in finished:
        assert one.exit_code == 0, one.error
    return finished


def _assert_same_curve(run: Path, other: Path) -> None:
    lines, other_lines = metrics_of(run), metrics_of(other)
    assert [line["step"] for line in lines] == [line["step"] for line in other_lines]
    for line, other_line in zip(lines, other_lines, strict=True):
        assert line == pytest.approx(other_line, rel=1e-5)


@pytest.fixture(scope="module")
def alone(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with all eight devices."""
    run = tmp_path_factory.mktemp("alone") / "run"
    train(_config(pages, run))
    return run


@pytest.mark.parametrize(("count", "mode"), [(2, "pmap"), (2, "fsdp"), (4, "pmap")])
def test_the_losses_are_those_of_one_process(count: int, mode: str, pages: Path, alone: Path, tmp_path: Path) -> None:
    finished = _run(_config(pages, tmp_path / "run", mode), tmp_path, count)
    _assert_same_curve(tmp_path / "run", alone)
    assert sorted(re.findall(r"host (\d) of (\d)", finished[0].out)) == [(str(k), str(count)) for k in range(count)]
    assert "valid_loss" in finished[0].out + finished[0].error
    assert all("valid_loss" not in one.out + one.error for one in finished[1:])  # only the first one says anything


def test_a_run_goes_on_with_other_devices_processes_and_mode(pages: Path, alone: Path, tmp_path: Path) -> None:
    """Two processes that share their state, then one that has all of it on eight devices, then two again."""
    run = tmp_path / "run"
    for steps, mode, count in ((2, "fsdp", 2), (4, "pmap", 1), (STEPS, "pmap", 2)):
        cfg = _config(pages, run, mode, STEPS)
        # The schedule is that of the whole run; a stretch of it ends early.
        stopping = many_processes.python(STOP_AT, steps)
        if count == 1:
            done = many_processes.run_all([[*stopping, *_commands(cfg, tmp_path, 1)[0][3:6]]], tmp_path, 8)
        else:
            done = many_processes.run_all([[*stopping, *command[3:]] for command in _commands(cfg, tmp_path, count)])
        for one in done:
            assert one.exit_code in (0, 128 + signal.SIGTERM), one.error
    assert checkpoint.steps(run)[-1] == STEPS
    _assert_same_curve(run, alone)


# Runs `jaxgpt` and sends its process SIGTERM when so many steps have begun.
STOP_AT = """
import os, signal, sys
from jaxgpt import cli
from jaxgpt.train.trainer import Trainer
step, begun, last = Trainer.step, 0, int(sys.argv[1])
def counted(self, state, batch, stop):
    global begun
    begun += 1
    if begun == last:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, state, batch, stop)
Trainer.step = counted
sys.argv = ["jaxgpt", *sys.argv[2:]]
cli.main()
"""


def test_one_hosts_signal_stops_all_of_them_at_the_same_step(pages: Path, alone: Path, tmp_path: Path) -> None:
    cfg = _config(pages, tmp_path / "run")
    first, second = _commands(cfg, tmp_path, 2)
    stopped = many_processes.run_all([first, [*many_processes.python(STOP_AT, 2), *second[3:]]])
    assert [one.exit_code for one in stopped] == [128 + signal.SIGTERM] * 2, stopped
    reached = checkpoint.steps(tmp_path / "run")[-1]
    assert 2 <= reached <= 4
    assert f"saved at step {reached}" in stopped[0].out + stopped[0].error
    _run(cfg, tmp_path, 2)
    _assert_same_curve(tmp_path / "run", alone)


NO_PAGES = """
import sys
from jaxgpt import cli
from jaxgpt.errors import UserError
from jaxgpt.train import loop
def broken(*args):
    raise UserError("the pages are not here")
loop.Trainer = broken
sys.argv = ["jaxgpt", *sys.argv[1:]]
cli.main()
"""


def test_a_mistake_on_another_host_ends_all_at_once(pages: Path, tmp_path: Path) -> None:
    first, second = _commands(_config(pages, tmp_path / "run"), tmp_path, 2)
    begun = time.monotonic()
    finished = many_processes.run_all([first, many_processes.python(NO_PAGES, *second[3:])])
    assert time.monotonic() - begun < 60
    assert [one.exit_code for one in finished] == [2, 2]
    assert "error: host 1: the pages are not here" in finished[0].error
    assert "error: the pages are not here" in finished[1].error
    assert not (tmp_path / "run").exists()


def test_hosts_of_another_configuration_are_refused_and_nobody_waits(pages: Path, tmp_path: Path) -> None:
    cfg = _config(pages, tmp_path / "run")
    commands = _commands(cfg, tmp_path, 2)
    begun = time.monotonic()
    finished = many_processes.run_all([commands[0], [*commands[1], "--train.batch_size", "16"]])
    assert time.monotonic() - begun < 60
    for one in finished:
        assert one.exit_code == 2
        assert "batch_size" in one.error
        assert "8" in one.error
        assert "16" in one.error
    assert not (tmp_path / "run").exists()


def test_a_mistake_on_the_first_host_ends_all_at_once(pages: Path, tmp_path: Path) -> None:
    """Whatever it finds out alone, such as a folder that is not a run's."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    begun = time.monotonic()
    finished = many_processes.run_all(_commands(_config(pages, tmp_path / "run"), tmp_path, 2))
    assert time.monotonic() - begun < 60
    for one in finished:
        assert one.exit_code == 2
        assert "already holds something that is no run" in one.error
