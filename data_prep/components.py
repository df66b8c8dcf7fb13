"""Connected components of a graph that may be larger than memory."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxgpt.data.atomic import replacing

_STEP = 1 << 19  # entries of a table that are in arrays at one time


def write_all_but_lowest(links: Path, path: Path) -> int:
    """Writes to `path`, a .npy of ascending uint64, every node but the lowest of its component; returns how many.

    links: pairs of linked nodes, uint64 (n, 2), as raw bytes; the file is used up, and another is made beside it.
    The tables are memory maps of files, up to 48 bytes per link. They are written before they are mapped, so that a
    full disk is an OSError and not the end of the process.
    """
    if not links.stat().st_size:
        _write(path, iter(()), 0)
        return 0
    nodes = _distinct(links, links.with_name("nodes"))
    ends = np.memmap(links, np.uint64, "r+")
    for part in _parts(len(ends)):
        some = ends[part]
        ascending = np.argsort(some)  # neighbours are looked up in the same pages
        some[ascending] = np.searchsorted(nodes, some[ascending])
    with links.with_name("labels").open("wb") as file:
        for part in _parts(len(nodes)):
            file.write(np.arange(part.start, part.stop, dtype=np.int64).data)
    labels = np.memmap(links.with_name("labels"), np.int64, "r+")
    _label(labels, ends.view(np.int64).reshape(-1, 2))

    def others() -> Iterator[np.ndarray]:
        for part in _parts(len(nodes)):
            yield nodes[part][labels[part] != np.arange(part.start, part.stop)]

    n_others = sum(map(len, others()))
    _write(path, others(), n_others)
    return n_others


def _label(labels: np.ndarray, links: np.ndarray) -> None:
    """Brings each node's label, its own index at first, down to the lowest index of its component.

    Each round hangs the higher of two labels that a link joins below the lower, then follows labels to their ends. It
    ends when no link joins two labels; what one round has undone by hanging a label twice, the next mends.
    """
    changed = True
    while changed:
        changed = False
        for part in _parts(len(links)):
            left, right = labels[links[part, 0]], labels[links[part, 1]]
            unequal = left != right
            if unequal.any():
                changed = True
                high, low = np.maximum(left, right)[unequal], np.minimum(left, right)[unequal]
                np.minimum.at(labels, high, low)
        shorter = True
        while shorter:
            shorter = False
            for part in _parts(len(labels)):
                ends = labels[labels[part]]
                shorter |= bool((ends != labels[part]).any())
                labels[part] = ends


def _distinct(values: Path, path: Path) -> np.ndarray:
    """The distinct values of a file of uint64 in ascending order, as a memory map of the new file `path`."""
    shutil.copyfile(values, path)
    table = np.memmap(path, np.uint64, "r+")
    table.sort()
    kept = 0
    for part in _parts(len(table)):
        some = table[part]
        before = table[kept - 1 : kept] if kept else ~some[:1]
        distinct = some[np.concatenate([before, some[:-1]]) != some]
        table[kept : kept + len(distinct)] = distinct
        kept += len(distinct)
    return table[:kept]


def _write(path: Path, arrays: Iterator[np.ndarray], length: int) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<u8", "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        for array in arrays:
            file.write(array.data)


def _parts(length: int) -> Iterator[slice]:
    for begin in range(0, length, _STEP):
        yield slice(begin, min(begin + _STEP, length))
