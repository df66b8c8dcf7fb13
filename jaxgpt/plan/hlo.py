"""The loops of a compiled TPU program: its own cost analysis counts the body of a loop once.

The program's text gives each instruction the cycles that the compiler expects of it, and each loop its condition, which
compares a counter that starts at 0 with a constant. So the text says by what factor the time of the whole program is
more than that of its instructions taken once each.
"""

import re
from collections import defaultdict
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LOOP = re.compile(r" while\(.*?condition=%([\w.\-]+), body=%([\w.\-]+)")
_NAMED = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = ")
_NUMBER = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_COMPARE = re.compile(r"ROOT .* compare\(%[\w.\-]+, %([\w.\-]+)\), direction=LT")


class _Loop(NamedTuple):
    condition: str
    body: str


def loop_factor(text: str) -> float | None:
    """Cycles of the program with loops multiplied out / cycles with each body once.

    None where the compiler gives no cycles, or a loop's condition is not understood.
    """
    cycles: dict[str, int] = defaultdict(int)
    loops: dict[str, list[_Loop]] = defaultdict(list)
    trips: dict[str, int] = {}
    numbers: dict[str, int] = {}
    computation = entry = ""
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            computation, numbers = found[2], {}
            entry = computation if found[1] else entry
        elif found := _LOOP.search(line):
            loops[computation].append(_Loop(found[1], found[2]))
        elif found := _CYCLES.search(line):
            cycles[computation] += int(found[1])
        elif number := _NUMBER.search(line):
            name = _NAMED.match(line)
            assert name is not None
            numbers[name[1]] = int(number[1])
        if (found := _COMPARE.search(line)) and found[1] in numbers:
            trips[computation] = numbers[found[1]]
    if any(loop.condition not in trips for inside in loops.values() for loop in inside):
        return None

    def total(computation: str, multiplied: bool) -> int:
        inside = ((trips[loop.condition] if multiplied else 1, loop.body) for loop in loops[computation])
        return cycles[computation] + sum(times * total(body, multiplied) for times, body in inside)

    once = total(entry, multiplied=False)
    return total(entry, multiplied=True) / once if once else None
