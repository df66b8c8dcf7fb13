"""A run that is stopped or killed and goes on leaves the same numbers as one that nothing disturbed."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import command, environment, metrics_of, run_command, run_config, run_python, write_pages

from jaxgpt.train import checkpoint, pmapped, validate
from jaxgpt.train.loop import train
from jaxgpt.train.saving import Checkpoints
from jaxgpt.train.telemetry import Telemetry
from jaxgpt.train.trainer import Trainer

pytestmark = pytest.mark.slow
STEPS = 20
DEVICES = 8


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pages(tmp_path_factory.mktemp("pages"))  # 61 rows: the run crosses several epochs


@pytest.fixture(scope="module")
def undisturbed(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    train(run_config(pages, run, STEPS))
    lines = metrics_of(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    return lines


def _stop_when_logged(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """The signal arrives as soon as the loss of `step` has been written, as if somebody watched."""
    scalars = Telemetry.scalars

    def and_signal(self: Telemetry, at: int, values: dict[str, float]) -> None:
        scalars(self, at, values)
        if at == step and "loss" in values:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Telemetry, "scalars", and_signal)


@pytest.mark.parametrize(("step", "number"), [(7, signal.SIGTERM), (10, signal.SIGINT)])
def test_a_stopped_run_goes_on_bitwise(
    pages: Path, tmp_path: Path, undisturbed: list[dict], monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        _stop_when_logged(patch, step, number)
        outcome = train(cfg)
    assert outcome.stopped_by == number
    assert step <= outcome.step <= step + 1
    assert checkpoint.steps(tmp_path / "run")[-1] == outcome.step
    assert signal.getsignal(number) is before
    assert metrics_of(tmp_path / "run")[-1]["step"] == outcome.step
    assert train(cfg).step == STEPS
    assert metrics_of(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("step", [6, 10])  # of a checkpoint; the second is evaluated as well
def test_a_signal_while_a_checkpoint_is_saved_loses_no_line(
    pages: Path, tmp_path: Path, undisturbed: list[dict], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    save = Checkpoints.save

    def and_signal(self: Checkpoints, state, run_state, metrics) -> None:
        save(self, state, run_state, metrics)
        if run_state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", and_signal)
        assert train(cfg).stopped_by == signal.SIGTERM
    train(cfg)
    assert metrics_of(tmp_path / "run") == undisturbed


def test_a_signal_during_the_evaluation_leaves_it_to_the_next_run(
    pages: Path, tmp_path: Path, undisturbed: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    batches, calls = validate.evaluation_batches, []

    def signal_at_step_10(*args: Any) -> Iterator[dict]:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(*args)

    with monkeypatch.context() as patch:
        patch.setattr(validate, "evaluation_batches", signal_at_step_10)
        outcome = train(cfg)
    assert (outcome.step, outcome.stopped_by) == (10, signal.SIGTERM)
    assert checkpoint.steps(tmp_path / "run")[-1] == 10
    assert checkpoint.valid_loss(tmp_path / "run", 10) is None
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "valid_loss" in line] == [5]

    def gone(*args: Any) -> Any:
        raise RuntimeError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", gone)
        with pytest.raises(RuntimeError, match="gone"):
            train(cfg)  # evaluates, and nothing more; the next one must not do so again
    evaluated = [line["valid_loss"] for line in metrics_of(tmp_path / "run") if "valid_loss" in line]
    assert checkpoint.valid_loss(tmp_path / "run", 10) == evaluated[-1]
    assert train(cfg).step == STEPS
    assert metrics_of(tmp_path / "run") == undisturbed


def test_a_signal_during_compilation_is_granted_after_the_first_step(
    pages: Path, tmp_path: Path, undisturbed: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    traced = pmapped.gradients

    def and_signal(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return traced(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pmapped, "gradients", and_signal)
        outcome = train(cfg)
    assert (outcome.step, outcome.stopped_by) == (1, signal.SIGTERM)
    assert checkpoint.steps(tmp_path / "run") == [1]
    train(cfg)
    assert metrics_of(tmp_path / "run") == undisturbed


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    pages: Path,
    tmp_path: Path,
    undisturbed: list[dict],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    cfg = run_config(pages, run, STEPS)
    with monkeypatch.context() as patch:
        _stop_when_logged(patch, 10, signal.SIGTERM)
        train(cfg)
    *_, before, newest = checkpoint.steps(run)
    assert newest > before
    # The largest file holds parameters or what the optimizer knows of them.
    file = max((run / "checkpoints" / str(newest)).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    train(cfg)
    said = capsys.readouterr().out
    assert f"checkpoint {newest} is damaged: " in said
    assert f"going on from step {before}" in said
    assert (run / "damaged" / str(newest)).is_dir()
    assert metrics_of(run) == undisturbed


def test_a_stopped_run_is_saved_at_the_step_it_says(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes at any line of the loop: here after it was looked at for the last time in a step."""
    from jaxgpt.train import loop

    class Late:
        """Asks to stop from its n-th question on."""

        signal = None

        def __init__(self, questions: int):
            self.left = questions

        def __bool__(self) -> bool:
            self.left -= 1
            if self.left < 0:
                self.signal = signal.SIGTERM
            return self.signal is not None

    for questions in range(8, 11):
        run = tmp_path / str(questions)

        class Patched:
            def __enter__(self, questions=questions):
                return Late(questions)

            def __exit__(self, *error) -> None:
                pass

        monkeypatch.setattr(loop, "stop_on_signal", Patched)
        outcome = train(run_config(pages, run, STEPS))
        assert outcome.stopped_by == signal.SIGTERM
        assert checkpoint.steps(run)[-1] == outcome.step
        assert [line["step"] for line in metrics_of(run) if "loss" in line] == list(range(1, outcome.step + 1))


def test_a_kill_right_after_a_checkpoint_loses_no_line(pages: Path, tmp_path: Path, undisturbed: list[dict]) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    command(cfg, tmp_path)  # writes given.yaml
    code = """
import os, signal, sys
from jaxgpt.train.saving import Checkpoints
save = Checkpoints.save

def and_die(self, state, run_state, metrics):
    save(self, state, run_state, metrics)
    if run_state.step == 6:
        self.wait()
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoints.save = and_die
sys.argv = ["jaxgpt", "train", "--config", "given.yaml"]
from jaxgpt.cli import main
main()
"""
    assert run_python(code, tmp_path, devices=DEVICES).returncode == -signal.SIGKILL
    assert checkpoint.steps(tmp_path / "run")[-1] == 6
    train(cfg)
    assert metrics_of(tmp_path / "run") == undisturbed


def _logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def _start(cfg, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        command(cfg, folder),
        env=environment(DEVICES),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kills_at_any_moment_leave_the_same_numbers(pages: Path, tmp_path: Path, undisturbed: list[dict]) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    moments = random.Random(0)
    killed = 0
    for target in (4, 10, 16):
        process = _start(cfg, tmp_path)
        before = _logged(tmp_path / "run")
        deadline = time.monotonic() + 120
        while process.poll() is None and _logged(tmp_path / "run") < max(target, before + 2):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.08))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.stderr.close()
    assert killed >= 2
    result = run_command(cfg, tmp_path, DEVICES)
    assert result.returncode == 0, result.stderr
    assert metrics_of(tmp_path / "run") == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_saves_and_says_how_it_was_stopped(
    pages: Path, tmp_path: Path, undisturbed: list[dict], number: int, code: int
) -> None:
    cfg = run_config(pages, tmp_path / "run", STEPS)
    process = _start(cfg, tmp_path)
    deadline = time.monotonic() + 120
    while process.poll() is None and _logged(tmp_path / "run") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    done = metrics_of(tmp_path / "run")[-1]["step"]
    assert done < STEPS
    assert checkpoint.steps(tmp_path / "run")[-1] == done
    train(cfg)
    assert metrics_of(tmp_path / "run") == undisturbed
