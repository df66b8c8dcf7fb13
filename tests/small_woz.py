"""Dialogues and databases made up in the layout of MultiWOZ 2.1."""

import json
from pathlib import Path
from typing import Any

from jaxgpt.evaluate.tasks.database import Databases

RESTAURANTS = [
    {"name": "the golden wok", "area": "north", "food": "chinese", "pricerange": "moderate", "phone": "01223350688",
     "address": "191 histon road chesterton", "postcode": "cb43hl"},
    {"name": "meghna", "area": "west", "food": "indian", "pricerange": "moderate", "phone": "01223727410",
     "address": "205 victoria road", "postcode": "cb43lf"},
    {"name": "hakka", "area": "north", "food": "chinese", "pricerange": "expensive", "phone": "01223568988",
     "address": "24 milton road", "postcode": "cb41jy"},
]  # fmt: skip
HOTELS = [
    {"name": "acorn guest house", "area": "north", "pricerange": "moderate", "stars": "4", "type": "guesthouse",
     "internet": "yes", "parking": "yes", "phone": "01223353888", "address": "154 chesterton road",
     "postcode": "cb41da"},
]  # fmt: skip
TRAINS = [
    {"trainID": "TR1006", "leaveAt": "13:00", "arriveBy": "14:08", "day": "monday", "departure": "cambridge",
     "destination": "ely"},
    {"trainID": "TR0001", "leaveAt": "09:00", "arriveBy": "10:08", "day": "monday", "departure": "cambridge",
     "destination": "ely"},
]  # fmt: skip
ROWS: dict[str, list[dict[str, Any]]] = {
    "restaurant": RESTAURANTS,
    "hotel": HOTELS,
    "attraction": [],
    "train": TRAINS,
    "hospital": [{"department": "neurology", "phone": "01223217216"}],
    "police": [{"name": "Parkside Police Station", "address": "Parkside, Cambridge", "phone": "01223358966"}],
}
DATABASES = Databases(ROWS)
DOMAINS = ("restaurant", "hotel", "attraction", "train", "taxi", "hospital", "police")


def user(text: str, acts: dict[str, Any] | None = None, spans: list[list[Any]] | None = None) -> dict[str, Any]:
    return {"text": text, "metadata": {}, "dialog_act": acts or {}, "span_info": spans or []}


def system(
    text: str,
    belief: dict[str, dict[str, str]] | None = None,
    booked: dict[str, dict[str, str]] | None = None,
    acts: dict[str, Any] | None = None,
    spans: list[list[Any]] | None = None,
) -> dict[str, Any]:
    belief, booked = belief or {}, booked or {}
    metadata = {
        domain: {
            "semi": {"area": "not mentioned", **belief.get(domain, {})},
            "book": {"booked": [booked[domain]] if domain in booked else []},
        }
        for domain in DOMAINS
    }
    return {**user(text, acts, spans), "metadata": metadata}


def goal(**domains: dict[str, Any]) -> dict[str, Any]:
    return {**{domain: {} for domain in DOMAINS}, **domains, "message": ["find something"]}


def meal(name: int = 0) -> dict[str, Any]:
    """A dialogue in which a table is found and booked."""
    chinese = {"restaurant": {"food": "chinese", "area": "north", "pricerange": "moderate"}}
    return {
        "goal": goal(
            restaurant={
                "info": {"food": "chinese", "area": "north", "pricerange": "moderate"},
                "reqt": ["phone", "food"],
                "book": {"people": "2"},
            }
        ),
        "log": [
            user(
                "I want moderate Chinese food in the north .",
                {"Restaurant-Inform": [["Food", "chinese"]]},
                [["Restaurant-Inform", "Food", "Chinese", 3, 3], ["Restaurant-Inform", "Price", "moderate", 2, 2]],
            ),
            system(
                "The Golden Wok is in the north , phone 01223350688 .",
                chinese,
                acts={"Restaurant-Inform": [["Name", "The Golden Wok"]]},
                spans=[["Restaurant-Inform", "Name", "The Golden Wok", 0, 2]],
            ),
            user(f"A table for {name + 2} at 18:30 please ."),
            system(
                "Booked ! The reference number is QWERTY12 .",
                chinese,
                {"restaurant": {"name": "the golden wok", "reference": "QWERTY12"}},
                {"Booking-Book": [["Ref", "QWERTY12"]]},
                [["Booking-Book", "Ref", "QWERTY12", 6, 6]],
            ),
        ],
    }


def write_raw(folder: Path, dialogues: dict[str, Any], name: str = "data.json") -> Path:
    """data.json and the databases; returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain, rows in ROWS.items():
        (folder / f"{domain}_db.json").write_text(json.dumps(rows))
    (folder / name).write_text(json.dumps(dialogues))
    return folder / name
