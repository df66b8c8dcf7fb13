"""The machines that a run can be planned for, none of which need be there."""

import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxgpt.errors import UserError

_GIB = 1024**3
_GB = 10**9


@dataclass(frozen=True)
class Machine:
    """name: as the user gave it. price_key: of prices.py. device_kind: as JAX names it.

    limit_bytes: memory of a device; bandwidth: of that memory, bytes/s; None where it must be measured. per_unit:
    devices of one unit that is paid for (a TPU v2 or v3 chip is two devices).
    """

    name: str
    kind: Literal["tpu", "gpu", "cpu"]
    price_key: str
    device_kind: str
    n_devices: int
    limit_bytes: int
    bandwidth: float | None
    per_unit: int = 1

    @property
    def n_units(self) -> int:
        return self.n_devices // self.per_unit


@dataclass(frozen=True)
class _Tpu:
    """dimensions: of a slice's shape. sizes: what the cloud rents out; the compiler takes some more."""

    device_kind: str
    dimensions: int
    gib: int
    gb_per_second: float
    per_chip: int
    sizes: str


# Memory and bandwidth per device. Source: cloud.google.com/tpu/docs, pages v2 to v6e.
_TPUS = {
    "v2": _Tpu("TPU v2", 2, 8, 350, 2, "2x2 4x4 4x8 8x8 8x16 16x16"),
    "v3": _Tpu("TPU v3", 2, 16, 450, 2, "2x2 4x4 4x8 8x8 8x16 16x16 16x32 32x32"),
    "v4": _Tpu("TPU v4", 3, 32, 1200, 1, "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"),
    "v5e": _Tpu("TPU v5 lite", 2, 16, 819, 1, "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"),
    "v5p": _Tpu("TPU v5", 3, 95, 2765, 1, "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8"),
    "v6e": _Tpu("TPU v6 lite", 2, 32, 1640, 1, "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"),
}
# Name -> device kind, GB of memory, GB/s. Source: NVIDIA's data sheets; the SXM variants where there are several.
_GPUS = {
    "a100": ("NVIDIA A100-SXM4-80GB", 80, 2039),
    "h100": ("NVIDIA H100 80GB HBM3", 80, 3350),
    "h200": ("NVIDIA H200", 141, 4800),
}
# Without these libtpu looks for the TPU of this host, complains that it has none, and refuses a second process.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}
_MOST_GPUS = 8  # of one machine


def find_machine(name: str) -> Machine:
    """UserError names what is known where there is no such machine."""
    if name == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine(name, "cpu", "cpu", "cpu", 1, memory, None)
    if found := re.fullmatch(r"gpu:([a-z0-9]+)x(\d+)", name):
        model, count = found[1], int(found[2])
        if model in _GPUS and 1 <= count <= _MOST_GPUS:
            kind, gb, per_second = _GPUS[model]
            return Machine(name, "gpu", model, kind, count, gb * _GB, per_second * 1e9)
    if (found := re.fullmatch(r"(v\w+):(\d+(?:x\d+)*)", name)) and found[1] in _TPUS:
        tpu, shape = _TPUS[found[1]], [int(side) for side in found[2].split("x")]
        if len(shape) == tpu.dimensions and all(shape):
            n_devices = tpu.per_chip
            for side in shape:
                n_devices *= side
            return Machine(
                name,
                "tpu",
                found[1],
                tpu.device_kind,
                n_devices,
                tpu.gib * _GIB,
                tpu.gb_per_second * 1e9,
                tpu.per_chip,
            )
    raise _unknown(name, "is none of the known ones")


def _unknown(name: str, why: str) -> UserError:
    tpus = "; ".join(f"{generation}:{tpu.sizes.replace(' ', f' {generation}:')}" for generation, tpu in _TPUS.items())
    gpus = ", ".join(_GPUS)
    return UserError(f"--topology {name} {why}: {tpus}; gpu:NAMExCOUNT with NAME of {gpus} and COUNT 1 to 8; cpu")


def tpu_devices(machine: Machine) -> list[jax.Device]:
    """Devices of a slice that is not there; they can only be compiled for.

    UserError where libtpu is not installed, or takes no slice of this shape.
    """
    for variable, value in _NO_TPU_HERE.items():
        os.environ.setdefault(variable, value)
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise UserError(
            f"--topology {machine.name} needs the TPU compiler, libtpu, which is not installed; pip install "
            "-r requirements-plan.txt"
        ) from None
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if machine.price_key == "v4":  # its two cores are one device, as JAX has it on real machines
        options["chip_config_name"] = "megacore"
    if machine.n_units == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        devices: list[jax.Device] = topologies.get_topology_desc(machine.name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise _unknown(machine.name, f"is refused by the compiler ({reason}); known") from None
    assert len(devices) == machine.n_devices, f"{len(devices)} devices in {machine.name}"
    return devices
