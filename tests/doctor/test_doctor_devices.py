"""The process that starts JAX: the real one, and stand-ins that hang, crash or tell of machines that are not here."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jaxgpt.config import Config, ParallelConfig, TrainConfig
from jaxgpt.doctor import devices
from jaxgpt.doctor.check import Line
from jaxgpt.doctor.devices import check_devices
from jaxgpt.doctor.hardware import Gpu, Hardware

GPU = Gpu("NVIDIA L4", "580.1", 24 * 10**9, 10**8)


@pytest.fixture(autouse=True)
def _no_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "holders", lambda: [])
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)


def lines(
    then: str = "", *told: dict[str, Any], hardware: Hardware | None = None, batch: int = 0, all_hosts: bool = False
) -> list[Line]:
    """Of a stand-in that tells all this and then runs some code."""
    code = f"import os, sys, time\nprint('{{}}'.format({chr(10).join(map(json.dumps, told))!r}), flush=True)\n{then}"
    cfg = Config(output="", train=TrainConfig(batch_size=batch)) if batch else None
    command = (sys.executable, "-c", code)
    seconds = 1.5 if "sleep" in then else 20
    return list(check_devices(cfg, ParallelConfig(), hardware or Hardware(), all_hosts, 1, command, seconds))


ALONE = {"index": 0, "count": 1, "told_by": None}
HOST = {"index": 2, "count": 4, "told_by": "Cloud TPU"}
TPU = {"platform": "tpu", "kind": "TPU v3", "n_own": 8, "n_all": 8, "limits": [16 * 10**9] * 8}
DONE = {"works": True, "stage": ""}


def test_a_process_that_hangs_is_ended_and_its_stage_named() -> None:
    (hosts, line) = lines("time.sleep(60)", ALONE, {"stage": "starting the devices"})
    assert hosts.level == "ok"
    assert line.level == "fail"
    assert line.said.startswith("JAX does not work: while starting the devices, it gave no answer within 1.5 s; maybe ")
    assert "--all_hosts" in line.said


def test_a_process_that_ignores_everything_is_ended() -> None:
    (line,) = lines("import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(60)")
    assert line.said.startswith("JAX does not work: while starting Python, it gave no answer within 1.5 s")


def test_who_holds_the_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "holders", lambda: ["process 7 (python3)", "process 9 (python3)"])
    (line,) = lines("sys.exit(3)", {"stage": "starting the devices"})
    assert line.said == (
        "JAX does not work: while starting the devices, it ended with 3; an accelerator is held by process 7 (python3),"
        " process 9 (python3): wait for it, or end it"
    )


def test_a_crash_is_told_with_its_last_words() -> None:
    (line,) = lines("print('first\\nlast words', file=sys.stderr)\nos.abort()", {"stage": "computing on every device"})
    assert line.said == (
        "JAX does not work: while computing on every device, it ended with SIGABRT (last words); JAX_PLATFORMS is cpu: "
        "try without it"
    )


def test_a_host_of_a_pod_whose_chips_can_not_be_tried_alone_is_no_failure() -> None:
    (hosts, line) = lines("sys.exit(1)", HOST, {"own_chips": True, "stage": "starting the devices"})
    assert hosts.said == (
        "host 2 of 4, as Cloud TPU tells; to call the roll, run this with --all_hosts on all of them at the same time"
    )
    assert line.level == "warn"
    assert line.said.endswith("; this host's chips can't be tried alone here; run this with --all_hosts on all hosts")


def test_devices_that_work() -> None:
    found = lines("", ALONE, TPU, {"batch_devices": 8}, DONE, hardware=Hardware(4, "v3-8"), batch=64)
    assert found == [
        Line("ok", "hosts", "alone, as neither a cluster nor parallel.coordinator tells of other hosts"),
        Line("ok", "devices", "8 TPU v3: a known product on each and a sum over all are right"),
        Line("ok", "device_memory", "16.0 GB on each"),
        Line("ok", "batch", "64 sequences a step, 8 a device (devices: 8)"),
    ]


def test_devices_that_are_slow_or_wrong() -> None:
    slow = lines("", ALONE, TPU, {"slow": ["device 3 is slow; make sure that it works"]}, DONE)
    assert slow[2] == Line("warn", "devices", "device 3 is slow; make sure that it works")
    wrong = lines("", ALONE, TPU, {"problem": "device 5 computes wrongly; make sure", "stage": ""})
    assert wrong[1] == Line("fail", "devices", "device 5 computes wrongly; make sure")


def test_a_batch_for_all_hosts_is_judged_by_one() -> None:
    (*_, line) = lines("", HOST, TPU, {"batch_devices": 32}, DONE, batch=64)
    assert line.said == "64 sequences a step, 2 a device (devices: 32), if each of the 4 hosts has 8"


def test_a_roll_call_that_fails_and_one_that_nobody_can_hear() -> None:
    missing = lines("", HOST, {"hosts_problem": "host 3 of 4 did not come"}, TPU, DONE, all_hosts=True)
    assert missing[0] == Line("fail", "hosts", "host 3 of 4 did not come")
    assert lines("", ALONE, TPU, DONE, all_hosts=True)[0].level == "warn"
    here = lines("", HOST, {"joined": True}, {**TPU, "n_all": 32}, DONE, all_hosts=True)
    assert here[0].said.endswith("; all are here, with the same code, versions and configuration")
    assert here[1].said.startswith("8 TPU v3, 32 of all hosts: ")


def test_the_cpu_in_place_of_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = {"platform": "cpu", "kind": "cpu", "n_own": 1, "n_all": 1}
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    line = lines("", ALONE, cpu, DONE, hardware=Hardware(4))[1]
    said = "1 cpu, although there is 4 TPU chips, because JAX_PLATFORMS is cpu; unset it to use that"
    assert line == Line("warn", "devices", said)
    monkeypatch.delenv("JAX_PLATFORMS")
    line = lines("print('a warning', file=sys.stderr)", ALONE, cpu, DONE, hardware=Hardware(4))[1]
    said = "1 cpu, although there is 4 TPU chips (JAX: a warning); see that the packages above fit it"
    assert line == Line("fail", "devices", said)
    assert lines("", ALONE, cpu, DONE)[1].level == "ok"


def test_memory_of_gpus_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "holders", lambda: ["process 7 (python3)"])
    gpu = {"platform": "gpu", "kind": "NVIDIA L4", "n_own": 1, "n_all": 1, "limits": [18 * 10**9]}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    in_use = Gpu("NVIDIA L4", "580.1", 24 * 10**9, 7 * 10**9)
    unknown = Gpu("NVIDIA L4", "580.1", None, None)
    found = lines("", ALONE, gpu, DONE, hardware=Hardware(gpus=(GPU, in_use, unknown)))
    assert found[1].said.startswith("1 NVIDIA L4 of 3 (CUDA_VISIBLE_DEVICES is 0): ")
    assert found[2:] == [
        Line("ok", "device_memory", "GPU 0: 100 MB of 24.0 GB in use by others"),
        Line(
            "warn",
            "device_memory",
            "GPU 1: 7.0 GB of 24.0 GB in use by others (process 7 (python3)); end them, or choose GPUs with "
            "CUDA_VISIBLE_DEVICES",
        ),
    ]


def real(
    batch: int, parallel: ParallelConfig | None = None, all_hosts: bool = False, wait: int = 30
) -> dict[str, Line]:
    cfg = Config(output="", train=TrainConfig(batch_size=batch))
    found = check_devices(cfg, parallel or ParallelConfig(), Hardware(), all_hosts, wait)
    return {line.name: line for line in found}


def test_a_platform_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    line = real(batch=8)["devices"]
    assert line.level == "fail"
    assert line.said.startswith("JAX does not work: while starting the devices, RuntimeError: ")
    assert "nonsense" in line.said


def of_two(index: int, port: int) -> ParallelConfig:
    return ParallelConfig(coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=index)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_the_roll_of_two_with_one_missing(port: int) -> None:
    found = real(12, of_two(0, port), all_hosts=True, wait=1)
    assert found["hosts"].level == "fail"
    assert found["hosts"].said.startswith(f"host 1 of 2 did not come to 127.0.0.1:{port} within 1 s; start the same ")
    # What it has itself is tried all the same.
    assert found["devices"] == ("ok", "devices", "8 cpu: a known product on each and a sum over all are right")
    said = "train.batch_size 12 is not divisible by 16 devices; try 16"
    assert found["batch"] == ("fail", "batch", said)


@pytest.mark.slow
def test_two_hosts_compute_together(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda index: real(12, of_two(index, port), all_hosts=True), range(2)))
    for index, found in enumerate(both):
        assert {line.level for line in found.values()} == {"ok"}, found
        assert found["hosts"].said.startswith(f"host {index} of 2, as parallel.coordinator tells; all are here")
        assert found["devices"].said.startswith("2 cpu, 4 of all hosts: ")
        assert found["batch"].said == "12 sequences a step, 3 a device (devices: 4)"
