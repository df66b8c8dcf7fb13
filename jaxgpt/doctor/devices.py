"""JAX's devices and the other hosts, found by a process of its own, which is ended where JAX hangs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxgpt.config import Config, ParallelConfig
from jaxgpt.doctor.check import Line, in_one_line, size
from jaxgpt.doctor.hardware import Hardware, holders

PROBE = (sys.executable, "-m", "jaxgpt.doctor.probe")
SECONDS = 90.0  # that it may take, beside what it waits for other hosts; the first start of a TPU takes some 20
_GRACE = 15.0  # in which other hosts may still hear that one is missing
_LAST = 300  # characters of what a process said at its end
_IN_USE = 0.05  # of a GPU's memory, by which others are in the way


def limit(all_hosts: bool, wait: int, seconds: float = SECONDS) -> float:
    """Seconds within which `check_devices` has its answer."""
    return seconds + (wait + _GRACE if all_hosts else 0.0)


def check_devices(
    cfg: Config | None,
    parallel: ParallelConfig,
    hardware: Hardware,
    all_hosts: bool,
    wait: int,
    command: tuple[str, ...] = PROBE,
    seconds: float = SECONDS,
) -> Iterator[Line]:
    """cfg: None where no configuration was given; command, seconds: of the process."""
    request = {
        "all_hosts": all_hosts,
        "wait": wait,
        "parallel": asdict(parallel),
        "config": asdict(cfg) if cfg else {"parallel": asdict(parallel), "data": {}},
        "batch": [cfg.train.batch_size, cfg.train.microbatches] if cfg else None,
        "tpu_chips": hardware.tpu_chips,
    }
    longest = limit(all_hosts, wait, seconds)
    found = _ask(command, {**request, "seconds": longest}, longest)
    yield from _hosts(found, all_hosts)
    yield from _devices(found, hardware, all_hosts)
    yield from _memory(found, hardware)
    if cfg:
        yield from _batch(found, cfg)


def _ask(command: tuple[str, ...], request: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All that the process found, and `ended`: why it did not come to its end, or None; `hung`: whether it hung;
    `last`: its last line on stderr.
    """
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),  # the same code as here
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or it would take most of a GPU's memory from a run that is at work
    }
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        ended, hung = None, False
        try:
            out, error = process.communicate(json.dumps(request), timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            ended, hung = f"it gave no answer within {seconds:g} s", True
    found: dict[str, Any] = {"stage": "starting Python"}  # and what else the process tells, as probe.py does
    for line in out.splitlines():
        if line.endswith("}"):  # all of it
            found |= json.loads(line)
    last = in_one_line(error.strip().rpartition("\n")[2])[-_LAST:]
    if crash := found.get("crash"):
        ended = in_one_line(crash)[:_LAST]
    elif ended is None and found["stage"]:
        ended = f"it ended with {_code(process.returncode)}" + (f" ({last})" if last else "")
    return {**found, "ended": ended, "hung": hung, "last": last}


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else str(code)


def _hosts(found: dict[str, Any], all_hosts: bool) -> Iterator[Line]:
    if problem := found.get("hosts_problem"):
        yield Line("fail", "hosts", in_one_line(problem))
    elif "count" not in found:
        return  # the devices' line says why
    elif found["told_by"] is None:
        said = "alone, as neither a cluster nor parallel.coordinator tells of other hosts"
        if all_hosts:
            yield Line(
                "warn",
                "hosts",
                f"{said}; give --parallel.coordinator, .num_processes and .process_id, or no --all_hosts",
            )
        else:
            yield Line("ok", "hosts", said)
    else:
        said = f"host {found['index']} of {found['count']}, as {found['told_by']} tells"
        if found.get("joined"):
            said += "; all are here, with the same code, versions and configuration"
        elif found["count"] > 1:
            said += "; to call the roll, run this with --all_hosts on all of them at the same time"
        yield Line("ok", "hosts", said)


def _devices(found: dict[str, Any], hardware: Hardware, all_hosts: bool) -> Iterator[Line]:
    name = "devices"
    if found.get("works"):
        yield from _working(found, hardware)
    elif problem := found.get("problem"):
        yield Line("fail", name, in_one_line(problem))
    elif ended := found["ended"]:
        said = f"JAX does not work: while {found['stage']}, {ended}"
        if found.get("own_chips"):
            way_out = "this host's chips can't be tried alone here; run this with --all_hosts on all hosts"
            yield Line("warn", name, f"{said}; {way_out}")
        else:
            yield Line("fail", name, f"{said}; {_way_out(found, all_hosts)}")
    for line in found.get("slow", []):
        yield Line("warn", name, in_one_line(line))
    if found.get("works") and found["ended"]:
        said = f"all of them work, but while {found['stage']}, {found['ended']}"
        yield Line("warn", name, f"{said}; see what the other hosts say")


def _working(found: dict[str, Any], hardware: Hardware) -> Iterator[Line]:
    platform = found["platform"]
    said = f"{found['n_own']} {found['kind']}"
    if found["n_all"] > found["n_own"]:
        said += f", {found['n_all']} of all hosts"
    if platform == "cpu" and (hardware.tpu_chips or hardware.gpus):
        chosen = os.environ.get("JAX_PLATFORMS")
        said += f", although there is {hardware}"
        if chosen:
            yield Line("warn", "devices", f"{said}, because JAX_PLATFORMS is {chosen}; unset it to use that")
        else:
            said += f" (JAX: {found['last']})" if found["last"] else ""
            yield Line("fail", "devices", f"{said}; see that the packages above fit it")
        return
    here = len(hardware.gpus)
    if platform == "gpu" and found["n_own"] < here:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA_VISIBLE_DEVICES is {visible}" if visible else "a process of a cluster has those of its own"
        said += f" of {here} ({why})"
    yield Line("ok", "devices", f"{said}: a known product on each and a sum over all are right")


def _way_out(found: dict[str, Any], all_hosts: bool) -> str:
    held = holders()
    if held:
        return f"an accelerator is held by {', '.join(held)}: wait for it, or end it"
    if all_hosts:
        return "see what the other hosts say"
    unseen = "another process holds the accelerator (as root, this names it)"
    if found["hung"]:
        return f"maybe {unseen}, or it waits for other hosts, which --all_hosts on each of them would show"
    for variable in ("JAX_PLATFORMS", "LD_LIBRARY_PATH"):
        if value := os.environ.get(variable):
            return f"{variable} is {value}: try without it"
    return f"see that the packages above fit, or maybe {unseen}"


def _memory(found: dict[str, Any], hardware: Hardware) -> Iterator[Line]:
    """Of a GPU as it was before JAX came; of other devices, which belong to one process, what JAX may use."""
    name = "device_memory"
    if hardware.gpus:
        for number, gpu in enumerate(hardware.gpus):
            if gpu.total is None or gpu.used is None:
                continue
            said = f"GPU {number}: {size(gpu.used)} of {size(gpu.total)} in use by others"
            if gpu.used > _IN_USE * gpu.total:
                held = ", ".join(holders()) or "nvidia-smi may name them"
                yield Line("warn", name, f"{said} ({held}); end them, or choose GPUs with CUDA_VISIBLE_DEVICES")
            else:
                yield Line("ok", name, said)
    elif limits := found.get("limits"):
        yield Line("ok", name, f"{size(min(limits))} on each")


def _batch(found: dict[str, Any], cfg: Config) -> Iterator[Line]:
    name = "batch"
    if problem := found.get("batch_problem"):
        yield Line("fail", name, problem)
    elif count := found.get("batch_devices"):
        rows = cfg.train.batch_size // count
        parts = cfg.train.microbatches
        said = f"{cfg.train.batch_size} sequences a step, {rows} a device (devices: {count})"
        said += f", in {parts} parts" if parts > 1 else ""
        if found["n_all"] < count:
            said += f", if each of the {found['count']} hosts has {found['n_own']}"
        yield Line("ok", name, said)
