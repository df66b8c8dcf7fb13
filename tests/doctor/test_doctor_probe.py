"""What the process that starts JAX does, on the devices of this one; devices that fail are made up."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import jax
import pytest

from jaxgpt.config import ParallelConfig
from jaxgpt.doctor import devices, probe
from jaxgpt.errors import UserError
from jaxgpt.train import health, hosts


def test_eight_devices_that_work() -> None:
    told: dict[str, Any] = {}
    probe._compute(lambda **found: told.update(found))
    assert told == {"works": True}  # CPU devices share cores, so none of them is called slow


def test_a_sum_that_leaves_devices_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.lax, "psum", lambda number, axis_name: number)
    with pytest.raises(UserError) as error:
        probe._compute(lambda **found: None)
    assert "of a sum over all devices that is 36 device 0 has 1, device 1 has 2, device 2 has 3, " in str(error.value)


def test_a_product_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    product = health._product().copy()
    product[3, 5] += 1
    monkeypatch.setattr(health, "_product", lambda: product)
    with pytest.raises(UserError, match=r"device 7 \(cpu, of host 0\): computes 1 of 262144 entries .* wrongly"):
        probe._compute(lambda **found: None)


def test_a_host_of_a_pod_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"TPU_WORKER_ID": "3", "HOME": "/root"}
    monkeypatch.setattr(probe.os, "environ", environment)
    probe._leave_the_slice(4)
    assert environment["TPU_WORKER_ID"] == "0"
    assert environment["TPU_PROCESS_BOUNDS"] == "1,1,1"
    assert environment["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1"
    assert environment["TPU_VISIBLE_CHIPS"] == "0,1,2,3"
    assert environment["HOME"] == "/root"


def test_who_joins_is_told_apart_from_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes, so what one host has stands for all."""
    joined: list[tuple[int, str]] = []

    def join(cfg: ParallelConfig, identity: dict[str, Any], say: object) -> None:
        joined.append((cfg.wait, identity["command"]))
        raise UserError("nobody came")

    monkeypatch.setattr(hosts, "join", join)
    monkeypatch.setattr(probe, "_compute", lambda tell: None)
    told: dict[str, Any] = {}
    request = {
        "all_hosts": True,
        "wait": 7,
        "parallel": asdict(ParallelConfig(coordinator="127.0.0.1:9", num_processes=3, process_id=2)),
        "config": {"parallel": {}, "data": {}},
        "batch": [24, 2],
        "tpu_chips": 0,
    }
    probe._look(request, lambda **found: told.update(found))
    assert joined == [(7, "doctor")]
    assert (told["index"], told["count"], told["hosts_problem"]) == (2, 3, "nobody came")
    assert told["batch_devices"] == 24
    assert told["batch_problem"].startswith("train.batch_size 24 is not divisible by 24 devices times 2 microbatches")


def test_it_ends_itself_where_nobody_waits_any_more() -> None:
    """Host 1 of 2 asks for host 0 for a minute, but its time is over after a second."""
    request = {
        "all_hosts": True,
        "wait": 60,
        "parallel": asdict(ParallelConfig(coordinator="127.0.0.1:9", num_processes=2, process_id=1)),
        "config": {"parallel": {}, "data": {}},
        "batch": None,
        "tpu_chips": 0,
        "seconds": 1 - probe._MORE_SECONDS,
    }
    done = subprocess.run(
        devices.PROBE, input=json.dumps(request), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGALRM


def test_what_libraries_print_is_no_answer() -> None:
    code = """if True:
        import os
        from jaxgpt.doctor import probe
        probe._look = lambda request, tell: os.system("echo noise")
        probe.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"seconds": 20}', capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == '{"stage": ""}\n'
    assert done.stderr == "noise\n"
