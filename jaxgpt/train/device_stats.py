"""What this host's devices and this process hold and do, as far as it can be known without waiting for it."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import jax

_ASK_SECONDS = 10.0  # at most so often
_STALE_SECONDS = 60.0  # an older answer says nothing any more


class DeviceStats:
    """Asks for the utilisation in threads of their own, because the tools that know it take their time."""

    def __init__(self, ask: Callable[[], float | None] | None = None, clock: Callable[[], float] = time.monotonic):
        """ask: gives the mean utilisation of this host's devices, or None; the default is what this machine has."""
        self._ask = ask or _asker(jax.local_devices()[0].platform)
        self._clock = clock
        self._asked = -_ASK_SECONDS
        self._thread: threading.Thread | None = None
        self._answer: tuple[float, float] | None = None  # when, and what

    def values(self) -> dict[str, float]:
        """What is known of these; memory in 10^9 bytes.

        device_memory_gb, device_memory_peak_gb: of the fullest device; host_memory_gb: resident, of this process;
        device_utilisation: the mean part of the time in which a device computed, 0 to 1.
        """
        values = _device_memory()
        resident = _resident_bytes()
        if resident is not None:
            values["host_memory_gb"] = resident / 1e9
        utilisation = self._utilisation()
        if utilisation is not None:
            values["device_utilisation"] = utilisation
        return values

    def _utilisation(self) -> float | None:
        if self._ask is None:
            return None
        now = self._clock()
        if now - self._asked >= _ASK_SECONDS and not (self._thread and self._thread.is_alive()):
            self._asked = now
            self._thread = threading.Thread(target=self._find_out, args=(self._ask,), daemon=True)
            self._thread.start()
        if self._answer is None or now - self._answer[0] > _STALE_SECONDS:
            return None
        return self._answer[1]

    def _find_out(self, ask: Callable[[], float | None]) -> None:
        answer = ask()
        if answer is not None:
            self._answer = (self._clock(), answer)


def _device_memory() -> dict[str, float]:
    found = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    names = {"bytes_in_use": "device_memory_gb", "peak_bytes_in_use": "device_memory_peak_gb"}
    return {
        name: max(stats[key] for stats in found) / 1e9
        for key, name in names.items()
        if found and all(key in stats for stats in found)
    }


def _resident_bytes() -> int | None:
    """Of this process; None where there is no /proc. Its second number is in pages: man 5 proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else None


def _asker(platform: str) -> Callable[[], float | None] | None:
    if platform == "gpu" and shutil.which("nvidia-smi"):
        return nvidia_utilisation
    if platform == "tpu":
        return tpu_utilisation
    return None


def nvidia_utilisation() -> float | None:
    """Mean over the GPUs that this process may use; None where nvidia-smi does not know, as with MIG."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        command += ["-i", visible]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)
        return fmean(float(line) for line in answer.stdout.splitlines()) / 100
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def tpu_utilisation() -> float | None:
    """Mean over this host's chips; source: cloud.google.com/tpu/docs/tpu-monitoring-library. None without it."""
    try:
        from libtpu.sdk import tpumonitoring

        return fmean(float(chip) for chip in tpumonitoring.get_metric("duty_cycle_pct").data()) / 100
    except Exception:  # a library in the making, and only a number for the log
        return None
