"""How much memory Linux's control groups leave to this process, in a container or a job of a cluster.

Source: docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html, and the manual page cgroups(7).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class MemoryLimit(NamedTuple):
    """bytes: that a group's processes may use together; free: those that they may still use."""

    bytes: int
    free: int


class _Files(NamedTuple):
    """Of a group, in one version of control groups. cache: the field of memory.stat that can be dropped at once."""

    limit: str
    used: str
    cache: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Of this process's group and of all above it; every one of them holds. root: where proc and sys are."""
    return [limit for folder, files in _groups(root) if (limit := _limit(folder, files))]


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """A container may see its group's path as the machine does, but that group as the root: a folder may be missing."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, files = mount, _V2
        elif "memory" in controllers.split(","):
            top, files = mount / "memory", _V1
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder, files
            if folder == top:
                break


def _limit(folder: Path, files: _Files) -> MemoryLimit | None:
    """None where there is no limit."""
    limit = _number(folder / files.limit)
    if limit is None:
        return None
    used = (_number(folder / files.used) or 0) - _droppable(folder / "memory.stat", files.cache)
    return MemoryLimit(limit, max(0, limit - max(0, used)))


def _droppable(stat: Path, field: str) -> int:
    """Bytes of copies of files that nobody has used for a while, which make room before a limit is reached."""
    try:
        fields = dict(line.split(" ", 1) for line in stat.read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get(field, 0))


def _number(path: Path) -> int | None:
    """What a file of the kernel says; None where there is none, or a word."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
