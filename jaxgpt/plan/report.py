"""A plan as text for people and as JSON."""

from typing import Any

from jaxgpt.plan.planning import Plan

_GIB = 2**30


def as_json(plan: Plan) -> dict[str, Any]:
    """Null where unknown. mfu is a fraction; hours and cost (USD) are of the whole run."""
    return {
        "topology": plan.machine.name,
        "fits": plan.fits,
        "devices": plan.machine.n_devices,
        "bytes_per_device": plan.bytes_per_device,
        "limit_bytes": plan.machine.limit_bytes,
        "memory": plan.memory,
        "flops_per_device": plan.flops,
        "bytes_moved_per_device": plan.bytes_moved,
        "step_seconds": plan.step_seconds,
        "estimate": "roofline" if plan.roofline else "compiler",
        "tokens_per_second_per_device": plan.tokens_per_second,
        "mfu": plan.mfu,
        "hours": plan.hours,
        "cost": plan.cost,
        "price_per_hour": plan.price.usd if plan.price else None,
        "price_as_of": plan.price.as_of if plan.price else None,
    }


def lines(plan: Plan) -> list[str]:
    cfg, machine = plan.cfg, plan.machine
    each = cfg.train.batch_size // machine.n_devices
    told = [
        f"{machine.name}: {machine.n_devices} device{'s' if machine.n_devices > 1 else ''}"
        + (f" on {machine.n_units} chips" if machine.per_unit > 1 else "")
        + f", parallel.mode {cfg.parallel.mode}",
        f"model: {cfg.model.n_params / 1e6:,.2f}M parameters, products in {cfg.model.dtype}",
        f"batch: {cfg.train.batch_size} sequences of {plan.seq_len} tokens, {each} a device"
        + (f" in {cfg.train.microbatches} parts" if cfg.train.microbatches > 1 else ""),
        "",
        *_memory(plan),
        "",
        *_speed(plan),
    ]
    if plan.roofline:
        told += [
            "",
            "A roofline, not measured: what these products take at the machine's peaks, which real programs do not",
            "reach. The memory is that of the program for a CPU, which is a hint and no more.",
        ]
    return told


def _memory(plan: Plan) -> list[str]:
    limit = plan.machine.limit_bytes
    verdict = {True: "FITS", False: "DOES NOT FIT", None: "MAY NOT FIT"}[plan.fits]
    table = [f"memory of a device: {verdict}, {_gib(plan.bytes_per_device)} of {_gib(limit)} GiB"]
    table += [f"  {name:34s} {_gib(size):>8s} GiB" for name, size in plan.memory.items()]
    if plan.too_large:
        table.append(f"  the compiler says: {plan.too_large}")
    if not plan.fits:
        table.append("  try a lower train.batch_size, more train.microbatches, model.remat, or parallel.mode fsdp")
    return table


def _speed(plan: Plan) -> list[str]:
    least, most = (", at least", ", at most") if plan.roofline else ("", "")
    estimate = "at least" if plan.roofline else "estimated by the compiler"
    peak = _number(plan.peak, 1e12, "TFLOP/s a device")
    rows = [
        ("FLOPs of a step", _number(plan.flops, 1e12, "TFLOP, with what remat repeats")),
        ("bytes moved in a step", _number(plan.bytes_moved, 1e9, "GB to and from memory")),
        ("time of a step", _number(plan.step_seconds, 1e-3, f"ms, {estimate}")),
        ("tokens per second", _number(plan.tokens_per_second, 1.0, f"a device{most}")),
        ("MFU", _number(plan.mfu, 0.01, f"%{most}, of {peak}")),
        (f"{plan.cfg.train.max_steps:,} steps", _number(plan.hours, 1.0, f"hours{least}")),
        ("cost", _cost(plan, least)),
    ]
    formula = "  MFU = tokens/s * (6 N + 12 L T D) / peak: N multiplied parameters, L layers, T tokens, D width"
    network = [] if plan.roofline else ["  The time that devices wait for each other's sums and parts is not in it."]
    return ["a step, of each device:", *(f"  {name:34s} {value}" for name, value in rows), formula, *network]


def _cost(plan: Plan, least: str) -> str:
    price = plan.price
    if price is None:
        return "unknown; give --price"
    source = price.source if price.as_of is None else f"{price.source}, {price.as_of}"
    return _number(plan.cost, 1.0, f"USD{least}: {plan.machine.n_units} at {price.usd:.2f} an hour ({source})")


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:,.2f}"


def _number(value: float | None, unit: float, words: str) -> str:
    return "unknown" if value is None else f"{value / unit:,.1f} {words}"
