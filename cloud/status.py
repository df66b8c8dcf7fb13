"""A slice and its hosts as a table, in which a missing host is seen."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cloud.hosts import Answer
from cloud.settings import Settings
from jaxgpt.plan.prices import PRICES

_LONGEST = 100  # characters of a log's last line


def summary(settings: Settings, node: dict[str, Any] | None, now: datetime) -> str:
    """The slice in a line: what it is, how long it has been there, what that has cost, and when it will end."""
    own = settings
    what = f"{own.name}: {own.type} in {own.zone}, {own.purchase}"
    if node is None:
        return f"{what}: not there; cloud/tpu create makes it"
    parts = [what, str(node["state"])]
    born = when(node["createTime"])
    hours = (now - born).total_seconds() / 3600
    parts.append(f"up {hours:.1f} h, {cost(settings, hours)}")
    most = node.get("metadata", {}).get("jaxgpt-hours")
    end = born + timedelta(hours=float(most)) if most else None
    most_it_costs = f", at most {cost(settings, float(most))}" if most else ""
    parts.append(f"deletes itself at {end.astimezone():%Y-%m-%d %H:%M %Z}{most_it_costs}" if end else "no MAX_HOURS")
    return "; ".join(parts)


def cost(settings: Settings, hours: float) -> str:
    """Of so many hours, by the list price on demand."""
    price = PRICES[settings.slice.price_key].usd * settings.slice.n_chips
    less = ", spot costs less" if settings.spot else ""
    return f"about ${price * hours:,.2f} at ${price:,.2f} an hour{less}"


def when(text: str) -> datetime:
    """Of Google's times, which have nanoseconds."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


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
