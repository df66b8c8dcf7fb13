"""What hosts tell each other at the start, each on a line of JSON, and how two of them differ. Imports no jax."""

import json
from dataclasses import dataclass
from typing import Any

_KIND = {"roll_call": "jaxgpt"}  # tells our lines from any others


@dataclass(frozen=True)
class Host:
    """One process. index: from 0; name: of its machine; identity: what must be the same everywhere, of JSON's types."""

    index: int
    count: int
    name: str
    identity: dict[str, Any]

    def __str__(self) -> str:
        return f"host {self.index} ({self.name})"


def line(values: dict[str, Any]) -> bytes:
    """One of our lines, as it travels."""
    return json.dumps({**_KIND, **values}).encode() + b"\n"


def hello(host: Host) -> bytes:
    """The line by which a host says who it is."""
    return line({"index": host.index, "count": host.count, "name": host.name, "identity": host.identity})


def parse(line: bytes) -> dict[str, Any] | None:
    """The object of one of our lines; None for anything else."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and values.items() >= _KIND.items() else None


def host_of(values: dict[str, Any] | None) -> Host | None:
    """Whom a parsed line of `hello` is from; None where it is no such line."""
    match values:
        case {"index": int(index), "count": int(count), "name": str(name), "identity": dict(identity)}:
            return Host(index, count, name, identity) if name.isprintable() else None
    return None


def differences(own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A phrase for each field that host 0 (`own`) has otherwise, or not at all."""
    here, there = _flat(json.loads(json.dumps(own))), _flat(other)
    return [
        f"{name} is {_shown(there, name)} there and {_shown(here, name)} on host 0"
        for name in dict.fromkeys([*here, *there])
        if name not in here or name not in there or here[name] != there[name]
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _shown(values: dict[str, Any], name: str) -> str:
    text = json.dumps(values[name]) if name in values else "absent"
    return text if len(text) <= 80 else f"{text[:77]}..."
