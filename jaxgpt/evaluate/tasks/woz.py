"""MultiWOZ 2.1 with what its people were told to find, what the system knew at each turn, and what was meant."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.evaluate.tasks.database import OTHER, SEARCHED

DOMAINS = (*SEARCHED, *OTHER)
_REQUESTS = {"phone": "phone", "address": "address", "postcode": "postcode", "reference": "reference"}
_TRAIN_REQUESTS = {"trainID": "id"}


@dataclass(frozen=True)
class Goal:
    """Of one domain. informed: slot -> value that the user gives; requested: placeholders that the user wants."""

    informed: Mapping[str, str]
    requested: frozenset[str]


@dataclass(frozen=True)
class Span:
    """Words first to last of a turn say `value`, which the act (as in Hotel-Inform) has as its slot."""

    act: str
    slot: str
    value: str
    first: int
    last: int


@dataclass(frozen=True)
class WozTurn:
    """acts: names such as Hotel-Inform; codes: placeholder, such as hotel_reference -> text that was made up for it.

    belief, booked: of the system's turns: per domain the slots that the user has filled so far, and the domains in
    which something is booked by then, with a reference.
    """

    text: str
    acts: frozenset[str]
    spans: tuple[Span, ...]
    belief: Mapping[str, Mapping[str, str]]
    booked: frozenset[str]
    codes: Mapping[str, str]


@dataclass(frozen=True)
class WozDialogue:
    """turns: the user's and the system's in turn, the user's first; goals: of each domain that the user was sent to."""

    name: str
    goals: Mapping[str, Goal]
    turns: tuple[WozTurn, ...]


def read_dialogues(path: Path) -> Iterator[WozDialogue]:
    """Of data.json, or of a zip with one JSON file, as ConvLab-2 has it.

    UserError names file and dialogue where a part is missing or is not what it should be.
    """
    for name, content in _content(path).items():
        name = name.removesuffix(".json")
        place = f"{path}: dialogue {name}"
        try:
            yield WozDialogue(name, _goals(content["goal"]), tuple(_turn(turn) for turn in content["log"]))
        except KeyError as error:
            raise UserError(f"{place}: {error} is missing; give MultiWOZ 2.1 as it was published") from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{place}: {error}; give MultiWOZ 2.1 as it was published") from None


def read_names(path: Path) -> frozenset[str]:
    """Of a list file, a dialogue's name per line."""
    if not path.is_file():
        raise UserError(f"{path} is missing; it lists the dialogues of a split, one a line, and comes with data.json")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); get it again") from None
    return frozenset(line.strip().removesuffix(".json") for line in lines if line.strip())


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing; give data.json of MultiWOZ 2.1, or ConvLab-2's zip of a split")
    try:
        data = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith(".json"))
                data = archive.read(name)
        content = json.loads(data)
    except (ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is neither JSON nor a zip with one JSON file ({error}); get it again") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds {str(content)[:60]} where an object of dialogues belongs; get it again")
    return content


def _goals(content: dict[str, Any]) -> dict[str, Goal]:
    goals = {domain: _goal(domain, content[domain]) for domain in DOMAINS if content.get(domain)}
    if not goals:
        raise ValueError("the goal has no domain")
    return goals


def _goal(domain: str, content: dict[str, Any]) -> Goal:
    """What counts as requested is what the source counts: what a placeholder can stand for."""
    known = _TRAIN_REQUESTS if domain == "train" else _REQUESTS
    requested = {known[slot] for slot in content.get("reqt", ()) if slot in known}
    if content.get("book"):
        requested.add("reference")
    return Goal({slot: str(value) for slot, value in content.get("info", {}).items()}, frozenset(requested))


def _turn(content: dict[str, Any]) -> WozTurn:
    belief, booked, codes = {}, set[str](), dict[str, str]()
    for domain, state in content["metadata"].items():
        belief[domain] = {slot: _value(value) for slot, value in state["semi"].items()}
        for booking in state["book"].get("booked", ())[:1]:
            codes |= {f"{domain}_{slot}": str(value) for slot, value in booking.items() if slot in _CODES}
            if "reference" in booking:
                booked.add(domain)
    acts = content.get("dialog_act", {})
    return WozTurn(
        " ".join(content["text"].split()),
        frozenset(acts) if isinstance(acts, dict) else frozenset(),
        tuple(Span(*span) for span in content.get("span_info", ())) if isinstance(acts, dict) else (),
        belief,
        frozenset(booked),
        codes,
    )


_CODES = ("reference", "phone")  # of a booking: what was made up for it


def _value(value: Any) -> str:
    """MultiWOZ 2.2's conversions have lists of values that mean the same."""
    return str(value[0] if isinstance(value, list) and value else value or "")
