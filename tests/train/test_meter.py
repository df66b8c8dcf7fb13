"""The meter on a clock that tests move: every second is known."""

import subprocess
import sys
import threading
import time
import types
from dataclasses import dataclass
from pathlib import Path

import jax
import psutil
import pytest

from jaxgpt.train import device_stats
from jaxgpt.train.device_stats import DeviceStats, nvidia_utilisation, tpu_utilisation
from jaxgpt.train.meter import Meter


@dataclass
class _Clock:
    now: float = 50.0

    def __call__(self) -> float:
        return self.now

    def step(self, meter: Meter, seconds: float, tokens: int = 100, data: float = 0.0) -> None:
        with meter.during("data"):
            self.now += data
        self.now += seconds - data
        meter.step_done(tokens)


def _meter(clock: _Clock, peak: float | None = None) -> Meter:
    meter = Meter(flops_per_step=6.0, peak_flops=peak, n_devices=4, clock=clock)
    clock.step(meter, 20.0, data=1.0)
    clock.step(meter, 10.0)
    return meter


def _goodput(values: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("goodput_"): part for name, part in values.items() if name.startswith("goodput_")}


def test_rates_are_of_the_window_and_without_what_is_no_training() -> None:
    clock = _Clock()
    meter = _meter(clock, peak=10.0)
    clock.step(meter, 2.0, data=0.5)
    clock.step(meter, 3.0, tokens=150)
    with meter.during("evaluate"):
        clock.now += 7
    with meter.during("save"):
        clock.now += 1
    with meter.during("save"):
        clock.now += 3
    values = meter.values()
    assert values["tokens_per_second"] == pytest.approx(250 / 5)
    assert values["step_seconds"] == pytest.approx(2.5)
    assert values["data_wait_seconds"] == pytest.approx(0.25)
    assert values["checkpoint_stall_seconds"] == pytest.approx(2.0)
    assert values["mfu"] == pytest.approx(6 / 2.5 / (10 * 4))
    clock.step(meter, 4.0)
    values = meter.values()
    assert values["tokens_per_second"] == pytest.approx(25)
    assert values["data_wait_seconds"] == 0
    assert "checkpoint_stall_seconds" not in values
    assert meter.tokens_per_second == pytest.approx(350 / 9)


def test_goodput_is_of_all_the_time_and_sums_to_one() -> None:
    clock = _Clock()
    meter = Meter(6.0, None, 4, clock)
    clock.now += 5  # before the first step
    with meter.during("data"):
        clock.now += 1
    clock.now += 4
    assert _goodput(meter.values()) == pytest.approx(
        {"productive": 0, "compile": 0.9, "data": 0.1, "save": 0, "evaluate": 0}
    )
    clock.step(meter, 20.0)
    with meter.during("compile"):
        clock.now += 3
    clock.step(meter, 7.0)
    clock.step(meter, 10.0, data=2.0)
    with meter.during("compile"):
        clock.now += 6
    with meter.during("save"):
        clock.now += 4
    with meter.during("evaluate"):
        clock.now += 40
    wanted = {"productive": 0.08, "compile": 0.45, "data": 0.03, "save": 0.04, "evaluate": 0.40}
    goodput = _goodput(meter.values())
    assert goodput == pytest.approx(wanted)
    assert sum(goodput.values()) == pytest.approx(1)


def test_a_block_that_is_left_by_an_error_counts_too() -> None:
    clock = _Clock()
    meter = _meter(clock)

    def fail() -> None:
        with meter.during("data"):
            clock.now += 30
            raise StopIteration

    with pytest.raises(StopIteration):
        fail()
    assert _goodput(meter.values())["data"] == pytest.approx(31 / 60)


def test_what_is_not_known_is_left_out() -> None:
    clock = _Clock()
    meter = Meter(6.0, None, 4, clock)
    clock.step(meter, 20.0)
    clock.step(meter, 10.0)
    assert meter.tokens_per_second is None
    rates = {"tokens_per_second", "step_seconds", "data_wait_seconds", "checkpoint_stall_seconds", "mfu"}
    assert not rates & meter.values().keys()
    clock.step(meter, 1.0)
    values = meter.values()
    assert {"mfu", "checkpoint_stall_seconds"}.isdisjoint(values)
    assert values["tokens_per_second"] == 100
    assert {"device_memory_gb", "device_utilisation"}.isdisjoint(values)  # a CPU tells neither


def test_host_memory_is_what_psutil_says() -> None:
    values = DeviceStats().values()
    assert values["host_memory_gb"] == pytest.approx(psutil.Process().memory_info().rss / 1e9, rel=0.05)


def test_device_memory_is_of_the_fullest_device(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Device:
        used: int
        platform: str = "gpu"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_in_use": self.used, "peak_bytes_in_use": 3 * self.used}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(2_000_000_000), Device(5_000_000_000)])
    values = DeviceStats(ask=lambda: None).values()
    assert (values["device_memory_gb"], values["device_memory_peak_gb"]) == (5.0, 15.0)
    assert "device_utilisation" not in values


def test_utilisation_is_asked_in_a_thread_now_and_then() -> None:
    """The tool hangs until it is let go; nobody waits for it, and nobody asks a second time meanwhile."""
    clock, go, asked = _Clock(), threading.Event(), []

    def ask() -> float | None:
        asked.append(clock.now)
        go.wait(10)
        return 0.5 if len(asked) < 3 else None

    def wait_for(count: int) -> None:
        assert stats._thread is not None
        stats._thread.join(10)
        assert len(asked) == count

    stats = DeviceStats(ask, clock)
    began = time.perf_counter()
    for _ in range(20):
        assert "device_utilisation" not in stats.values()
        clock.now += 1
    assert time.perf_counter() - began < 5
    go.set()
    wait_for(1)
    assert stats.values()["device_utilisation"] == 0.5
    wait_for(2)
    clock.now += 9
    assert stats.values()["device_utilisation"] == 0.5
    wait_for(2)  # too soon to ask again
    clock.now += 1
    assert stats.values()["device_utilisation"] == 0.5
    wait_for(3)  # no answer, so the one before counts until it is old
    clock.now += 9
    assert stats.values()["device_utilisation"] == 0.5
    clock.now += 60
    assert "device_utilisation" not in stats.values()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("echo 30; echo 50", 0.4), ("echo '[N/A]'", None), ("exit 9", None), ("true", None)],
    ids=["two GPUs", "MIG", "no driver", "no GPU"],
)
def test_nvidia_utilisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: float | None
) -> None:
    """A tool of the same name that answers in the same form."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{answer}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert nvidia_utilisation() == expected
    assert "--query-gpu=utilization.gpu --format=csv,noheader,nounits -i 0,2" in (tmp_path / "asked").read_text()
    assert device_stats._asker("gpu") is nvidia_utilisation


def test_nvidia_smi_that_hangs_or_is_absent_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **options: float) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", options["timeout"])

    monkeypatch.setattr(device_stats.subprocess, "run", hang)
    assert nvidia_utilisation() is None
    monkeypatch.setenv("PATH", "")
    assert device_stats._asker("gpu") is None
    assert device_stats._asker("cpu") is None


def test_tpu_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the library, which gives a string per chip."""
    names: list[str] = []

    def get_metric(name: str) -> object:
        names.append(name)
        return types.SimpleNamespace(data=lambda: ["20.00", "40.00"])

    monkeypatch.setitem(sys.modules, "libtpu", types.ModuleType("libtpu"))
    sdk = types.ModuleType("libtpu.sdk")
    sdk.tpumonitoring = types.SimpleNamespace(get_metric=get_metric)
    monkeypatch.setitem(sys.modules, "libtpu.sdk", sdk)
    assert device_stats._asker("tpu") is tpu_utilisation
    assert tpu_utilisation() == pytest.approx(0.3)
    assert names == ["duty_cycle_pct"]
    monkeypatch.setitem(sys.modules, "libtpu.sdk", None)
    assert tpu_utilisation() is None
