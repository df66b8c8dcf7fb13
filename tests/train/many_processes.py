"""Several processes of one run on this machine, each with CPU devices of its own."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Finished(NamedTuple):
    """exit_code: negative for a signal."""

    exit_code: int
    out: str
    error: str


def free_port() -> int:
    """A port of loopback that nobody listens at; the kernel does not give it out again soon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def environment(devices: int = 2) -> dict[str, str]:
    """Of a process with so many CPU devices that imports this tree's jaxgpt."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def start(command: list[str], folder: Path | None = None, devices: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=environment(devices),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]], timeout: float = 120) -> list[Finished]:
    """Their outputs, in order. What is still running when the time is over is killed, and TimeoutExpired is raised."""

    def read(process: subprocess.Popen[str]) -> Finished:
        out, error = process.communicate(timeout=timeout)
        return Finished(process.returncode, out, error)

    try:
        # All pipes are read at once: a process whose pipe is full would keep the others waiting.
        with ThreadPoolExecutor(len(processes)) as threads:
            return list(threads.map(read, processes))
    finally:
        for process in processes:
            process.kill()


def run_all(commands: list[list[str]], folder: Path | None = None, devices: int = 2) -> list[Finished]:
    """Starts one process per command at the same time and waits for all of them."""
    return finish([start(command, folder, devices) for command in commands])


def python(code: str, *arguments: object) -> list[str]:
    """The command that runs this code."""
    return [sys.executable, "-c", code, *map(str, arguments)]
