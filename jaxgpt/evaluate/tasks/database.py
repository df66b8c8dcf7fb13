"""What MultiWOZ's system may look up: restaurants, hotels, attractions and trains."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError

Row = Mapping[str, Any]
SEARCHED = ("restaurant", "hotel", "attraction", "train")
OTHER = ("taxi", "hospital", "police")
_NOTHING = ("", "not mentioned", "none", "dontcare", "dont care", "don't care", "do n't care", "do not care")


@dataclass(frozen=True)
class Databases:
    """Rows by domain, as their files have them."""

    rows: Mapping[str, Sequence[Row]]

    def find(self, domain: str, constraints: Mapping[str, str]) -> tuple[int, ...]:
        """Places of the rows that meet all constraints, slot -> value; values that say nothing are no constraint.

        Trains leave at `leaveAt` or later and arrive by `arriveBy` or earlier; all else must be equal but for case and
        spaces. Nothing meets a slot that the rows lack, nor a time that is none.
        """
        wanted = {slot: value for slot, value in constraints.items() if says_something(value)}
        return tuple(number for number, row in enumerate(self.rows[domain]) if _meets(row, wanted))


def says_something(value: str) -> bool:
    return value.strip().lower() not in _NOTHING


def load_databases(folder: Path) -> Databases:
    """The files DOMAIN_db.json of MultiWOZ 2.1; UserError where one is missing or is no list of objects."""
    return Databases({domain: _load(folder / f"{domain}_db.json") for domain in (*SEARCHED, "hospital", "police")})


def _load(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; it is in the folder db of github.com/budzianowski/multiwoz")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); get it again") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds {str(rows)[:60]} where a list of objects belongs; get it again")
    return rows


def _meets(row: Row, wanted: Mapping[str, str]) -> bool:
    return all(slot in row and _fits(slot, str(row[slot]), value) for slot, value in wanted.items())


def _fits(slot: str, found: str, wanted: str) -> bool:
    if slot in ("leaveAt", "arriveBy"):
        time, limit = _minutes(found), _minutes(wanted)
        if time is None or limit is None:
            return False
        return time >= limit if slot == "leaveAt" else time <= limit
    return _plain(found) == _plain(wanted)


def _minutes(time: str) -> int | None:
    """Since midnight, of HH:MM; a train that arrives after midnight has 24:MM."""
    found = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*", time)
    return 60 * int(found[1]) + int(found[2]) if found else None


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
