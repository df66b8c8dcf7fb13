"""A slice and its hosts as a table, in which a missing host is seen."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from cloud.hosts import Answer
from cloud.settings import Settings
from cloud.slices import born, hours_of
from jaxgpt.plan.prices import PRICES

_LONGEST = 100  # characters of a log's last line


def summary(settings: Settings, node: dict[str, Any] | None, now: datetime, in_line: str | None = None) -> str:
    """The slice in a line: what it is, how long it has been there, what that has cost, and when it will end.

    in_line: the state of its place in the queue, where there is no slice.
    """
    own = settings
    what = f"{own.name}: {own.type} in {own.zone}, {own.purchase}"
    if node is None and in_line:
        return f"{what}: its place in the queue is {in_line}; cloud/tpu delete gives it up before it comes and costs"
    if node is None:
        return f"{what}: not there; cloud/tpu create makes it"
    parts = [what, str(node["state"])]
    hours = (now - born(node)).total_seconds() / 3600
    parts.append(f"up {hours:.1f} h, {cost(settings, hours)}")
    most = hours_of(node)
    if most is None:
        return "; ".join([*parts, "no MAX_HOURS"])
    end = born(node) + timedelta(hours=most)
    parts.append(f"deletes itself at {end.astimezone():%Y-%m-%d %H:%M %Z}, at most {cost(settings, most)}")
    return "; ".join(parts)


def cost(settings: Settings, hours: float) -> str:
    """Of so many hours, by the list price on demand."""
    price = PRICES[settings.slice.price_key].usd * settings.slice.n_chips
    less = ", spot costs less" if settings.spot else ""
    return f"about ${price * hours:,.2f} at ${price:,.2f} an hour{less}"


def table(answers: Sequence[Answer]) -> str:
    """A row for each host."""
    rows: list[tuple[str, ...]] = [("host", "reachable", "version", "state", "step", "disk free", "last line")]
    rows += [_row(answer) for answer in answers]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def _row(answer: Answer) -> tuple[str, ...]:
    found = answer.values
    if answer.trouble:
        return (str(answer.worker), "yes" if answer.reached else "no", "-", "-", "-", "-", _short(answer.trouble))
    state = found["state"]
    if state == "failed":
        state = f"failed ({found['exit']})"
    step = "-" if found.get("step") is None else f"{found['step']:,} of {found['steps']:,}"
    free = f"{found['disk_free'] / 1e9:.1f} GB" if "disk_free" in found else "-"
    return (str(answer.worker), "yes", found.get("version") or "-", state, step, free, _short(found.get("said", "")))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
