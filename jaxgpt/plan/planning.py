"""What a run would need on a machine: memory, time and money."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax

from jaxgpt.config import Config
from jaxgpt.errors import UserError
from jaxgpt.plan.arithmetic import roofline_seconds
from jaxgpt.plan.compiling import Step, TooLarge, compile_step, trace_step
from jaxgpt.plan.hlo import loop_factor
from jaxgpt.plan.machines import Machine, tpu_devices
from jaxgpt.plan.measured import measure_cpu
from jaxgpt.plan.prices import Price, price_of
from jaxgpt.train.flops import peak_flops, train_flops_per_token

_MOST_ROWS = 2**14  # of a device: a search ends there


@dataclass(frozen=True)
class Plan:
    """All of one device, unless it says otherwise; None where it is unknown.

    memory: bytes by kind, and bytes_per_device their sum; too_large: what the compiler said where the step does not
    fit. flops: of matrix products in a step, with what remat repeats; bytes_moved: in a step. roofline: seconds are
    what its products take at the machine's peaks, and memory is that of a CPU's program. hours, cost (USD): of the
    whole run.
    """

    cfg: Config
    machine: Machine
    fits: bool | None
    memory: dict[str, int]
    bytes_per_device: int
    too_large: str | None
    flops: float
    bytes_moved: float | None
    step_seconds: float | None
    peak: float | None
    price: Price | None

    @property
    def roofline(self) -> bool:
        return self.machine.kind != "tpu"

    @property
    def seq_len(self) -> int:
        return self.cfg.data.seq_len or self.cfg.model.n_positions

    @property
    def tokens_per_second(self) -> float | None:
        tokens = self.cfg.train.batch_size * self.seq_len / self.machine.n_devices
        return tokens / self.step_seconds if self.step_seconds else None

    @property
    def mfu(self) -> float | None:
        if not self.tokens_per_second or not self.peak:
            return None
        return self.tokens_per_second * train_flops_per_token(self.cfg.model, self.seq_len) / self.peak

    @property
    def hours(self) -> float | None:
        return self.step_seconds * self.cfg.train.max_steps / 3600 if self.step_seconds else None

    @property
    def cost(self) -> float | None:
        return self.hours * self.machine.n_units * self.price.usd if self.hours and self.price else None


def make_plan(cfg: Config, machine: Machine, dialogue: bool = False, price: float | None = None) -> Plan:
    """Compiles the step of cfg for the machine. price: USD per hour and chip, instead of the table's.

    Raises UserError where the batch does not divide over the devices, or the machine cannot be compiled for.
    """
    # Compilers know no time for a kernel that they did not write; blocks take longer and about the same memory.
    in_blocks = replace(cfg, model=replace(cfg.model, attention="blocks"))
    step = trace_step(in_blocks, _devices(machine), dialogue)
    flops = sum(product.flops * product.times for product in step.products)
    peak = cfg.log.peak_tflops * 1e12 if cfg.log.peak_tflops else peak_flops(machine.device_kind, cfg.model.dtype)
    paid = price_of(machine.price_key, price)
    compiled = compile_step(step)
    if isinstance(compiled, TooLarge):
        needed = machine.limit_bytes + compiled.over
        memory = {**step.memory, "activations and other temporaries": needed - sum(step.memory.values())}
        return Plan(cfg, machine, False, memory, needed, compiled.message, flops, None, None, peak, paid)
    needed = sum(compiled.memory.values())
    if machine.kind == "tpu":
        # In a loop's body time and traffic are taken to go together: the compiler says only the first.
        factor = loop_factor(compiled.text)
        seconds = compiled.seconds * factor if compiled.seconds and factor else None
        moved = compiled.bytes_moved * factor if factor else None
    else:
        bandwidth = machine.bandwidth
        if peak is None or bandwidth is None:
            measured = measure_cpu(cfg.model.dtype)
            peak, bandwidth = peak or measured.flops_per_second, bandwidth or measured.bandwidth
        moved, seconds = _roofline(step, peak, bandwidth)
    fits: bool | None = needed <= machine.limit_bytes
    if machine.kind == "gpu" and not fits and sum(step.memory.values()) <= machine.limit_bytes:
        fits = None  # the program for a CPU may keep more than that for a GPU
    return Plan(cfg, machine, fits, compiled.memory, needed, None, flops, moved, seconds, peak, paid)


def _devices(machine: Machine) -> list[jax.Device]:
    if machine.kind == "tpu":
        return tpu_devices(machine)
    devices: list[jax.Device] = jax.devices("cpu")[: machine.n_devices]
    if len(devices) < machine.n_devices:
        raise UserError(
            f"--topology {machine.name} needs {machine.n_devices} virtual devices, there are {len(devices)}; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={machine.n_devices}"
        )
    return devices


def _roofline(step: Step, peak: float, bandwidth: float) -> tuple[float, float]:
    """Bytes moved and the least seconds: products, and once a step gradients, parameters and optimizer state."""
    parameters, optimizer = step.memory["parameters"], step.memory["optimizer state"]
    other = 2.0 * (2 * parameters + optimizer)  # parameters, gradients and state, each written and read
    moved = other + sum(product.traffic * product.times for product in step.products)
    return moved, roofline_seconds(step.products, other, peak, bandwidth)


def largest_batch(plan: Plan, dialogue: bool = False) -> int | None:
    """The largest train.batch_size that fits the plan's machine; None where not even the smallest does."""
    cfg, devices = plan.cfg, plan.machine.n_devices * plan.cfg.train.microbatches

    def fits(batch_size: int) -> bool:
        if batch_size == cfg.train.batch_size:
            return bool(plan.fits)
        tried = make_plan(replace(cfg, train=replace(cfg.train, batch_size=batch_size)), plan.machine, dialogue)
        memory = f"{tried.bytes_per_device / 2**30:.2f} of {plan.machine.limit_bytes / 2**30:.2f} GiB a device"
        verdict = {True: "fits", False: "too large", None: "may be too large"}[tried.fits]
        print(f"batch {batch_size}: {verdict}, {memory}", file=sys.stderr, flush=True)
        return bool(tried.fits)

    return search(fits, cfg.train.batch_size, devices, _MOST_ROWS * devices)


def search(fits: Callable[[int], bool], start: int, unit: int, most: int) -> int | None:
    """The largest multiple of `unit` up to `most` that fits, where every smaller one fits as well.

    Doubles from `start`, a multiple of `unit`, and then halves what lies between; None where `unit` does not fit.
    """
    low, high = 0, start
    while fits(high):
        low = high
        if low == most:
            return low
        high = min(2 * high, most)
    while high - low > unit:
        middle = (low + high) // 2 // unit * unit
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low or None
