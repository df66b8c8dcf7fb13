"""Placeholders for values of MultiWOZ, by hand, and how many are found in real turns."""

from pathlib import Path
from typing import Any

import pytest
from small_woz import DATABASES, goal, meal, system, user, write_raw

from jaxgpt.evaluate.tasks.database import Databases, load_databases
from jaxgpt.evaluate.tasks.delexicalise import Delexicaliser, active_domain
from jaxgpt.evaluate.tasks.woz import Span, WozTurn, read_dialogues

REAL = Path(__file__).parents[3] / "shared" / "data" / "multiwoz21"
DELEXICALISER = Delexicaliser(DATABASES)


def turn(text: str, *spans: tuple[Any, ...]) -> WozTurn:
    acts = frozenset(span[0] for span in spans)
    return WozTurn(text, acts, tuple(Span(*span) for span in spans), {}, frozenset(), {})


def test_a_number_of_a_database_is_known_by_its_digits() -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "hotel": [{"name": 1492, "phone": 2233}],
        "hospital": [{"name": None, "department": "eyes"}],
    }
    assert Delexicaliser(Databases(rows)).turn(turn("call 1492 on 2233 ."), "hotel", {}) == (
        "call [hotel_name] on [hotel_phone] ."
    )


def test_a_dialogue(tmp_path: Path) -> None:
    (found,) = read_dialogues(write_raw(tmp_path, {"MUL1.json": meal()}))
    assert DELEXICALISER.dialogue(found) == [
        "i want [value_pricerange] [value_food] food in the [value_area] .",
        "[restaurant_name] is in the [value_area] , phone [restaurant_phone] .",
        "a table for [value_count] at [value_time] please .",
        "booked ! the reference number is [restaurant_reference] .",
    ]


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        # By the spans alone: nothing of it is in the databases.
        ("the Gandhi , 72 Regent St", [("Restaurant-Inform", "Name", "Gandhi", 1, 1),
                                       ("Restaurant-Inform", "Addr", "72 regent st", 3, 5)],
         "the [restaurant_name] , [restaurant_address]"),
        # An address in pieces is one; two names are two.
        ("unit g6 , leisure park , clifton road", [("Attraction-Inform", "Addr", "unit g6", 0, 1),
                                                   ("Attraction-Inform", "Addr", "leisure park", 3, 4),
                                                   ("Attraction-Inform", "Addr", "clifton road", 6, 7)],
         "[attraction_address]"),
        ("Kambar and Zing", [("Attraction-Inform", "Name", "kambar", 0, 0),
                             ("Attraction-Inform", "Name", "zing", 2, 2)],
         "[attraction_name] and [attraction_name]"),
        # Bookings are about the domain at hand.
        ("ABCD1234 for 2", [("Booking-Book", "Ref", "ABCD1234", 0, 0)], "[restaurant_reference] for [value_count]"),
        # What no number says stays.
        ("many places", [("Restaurant-Inform", "Choice", "many", 0, 0)], "many places"),
        ("three places", [("Restaurant-Inform", "Choice", "three", 0, 0)], "[value_count] places"),
        ("it is free", [("Attraction-Inform", "Fee", "free", 2, 2)], "it is free"),
        ("it has wifi", [("Hotel-Inform", "Internet", "wifi", 2, 2)], "it has wifi"),
        # A span that lies beside its words is left out, and the databases say what they can.
        ("Go to Meghna now", [("Restaurant-Inform", "Name", "Meghna", 0, 0)], "go to [restaurant_name] now"),
        ("Go to nowhere", [("Restaurant-Inform", "Name", "nowhere", 2, 9)], "go to nowhere"),
    ],
)  # fmt: skip
def test_spans(text: str, spans: list[tuple[Any, ...]], expected: str) -> None:
    assert DELEXICALISER.turn(turn(text, *spans), "restaurant", {}) == expected


@pytest.mark.parametrize(
    ("text", "domain", "expected"),
    [
        ("the golden wok , 191 Histon Road Chesterton", "", "[restaurant_name] , [restaurant_address]"),
        ("acorn guest house is cb41da", "", "[hotel_name] is [hotel_postcode]"),
        ("Parkside Police Station", "police", "[police_name]"),
        ("the neurology department", "hospital", "the [hospital_department] department"),
        ("TR1006 from Cambridge to ely on Monday", "train",
         "[train_id] from [value_place] to [value_place] on [value_day]"),
        ("call 01223999999 , cb21xx", "hotel", "call [hotel_phone] , [hotel_postcode]"),
        ("A1B2C3D4 costs 23.60 pounds at 10:05 for 4", "train",
         "[train_reference] costs [value_price] pounds at [value_time] for [value_count]"),
        ("01223999999", "", "[value_count]"),
        # Of a release whose words are not apart from their marks.
        ("It's Chinese, isn't it? Hakka.", "", "it 's [value_food] , is n't it ? [restaurant_name] ."),
    ],
)  # fmt: skip
def test_databases_and_looks(text: str, domain: str, expected: str) -> None:
    assert DELEXICALISER.turn(turn(text), domain, {}) == expected


def test_codes_are_those_of_the_bookings() -> None:
    # It has no digit, so nothing but the booking tells that it is a code.
    assert (
        DELEXICALISER.turn(turn("take WAEYAQOM ."), "hotel", {"train_reference": "waeyaqom"})
        == "take [train_reference] ."
    )
    assert DELEXICALISER.turn(turn("take WAEYAQOM ."), "hotel", {}) == "take waeyaqom ."


def test_a_code_is_known_in_the_turn_of_its_booking_and_after(tmp_path: Path) -> None:
    booked = {"hotel": {"reference": "WAEYAQOM"}}
    content = {
        "goal": goal(hotel={"info": {}, "book": {"people": "1"}}),
        "log": [user("a room", {"Hotel-Inform": []}), system("is waeyaqom ok ?", {}, booked), user("waeyaqom ?")],
    }
    (found,) = read_dialogues(write_raw(tmp_path, {"MUL1.json": content}))
    assert DELEXICALISER.dialogue(found)[1:] == ["is [hotel_reference] ok ?", "[hotel_reference] ?"]


def test_the_domain_at_hand() -> None:
    def acts(*names: str) -> WozTurn:
        return WozTurn("", frozenset(names), (), {}, frozenset(), {})

    assert active_domain(acts("Hotel-Inform"), "train") == "hotel"
    assert active_domain(acts("Hotel-Inform", "Train-Inform"), "train") == "train"
    assert active_domain(acts("Booking-Book", "general-bye"), "train") == "train"
    assert active_domain(acts(), "") == ""


@pytest.mark.skipif(not REAL.is_dir(), reason="MultiWOZ 2.1 is not here")
def test_real_turns_keep_no_codes_and_few_values() -> None:
    delexicaliser = Delexicaliser(load_databases(REAL))
    dialogues = list(read_dialogues(REAL / "convlab2_val.json.zip"))[:200]
    texts = [text for one in dialogues for text in delexicaliser.dialogue(one)[1::2]]
    together = " ".join(texts)
    codes = {code.lower() for one in dialogues for each in one.turns for code in each.codes.values()}
    assert len(codes) > 100
    assert not [code for code in codes if f" {code} " in together]
    # Where the people of the data marked a name, there is a placeholder of one, and hardly anywhere else.
    marked = sum(any(span.slot == "Name" for span in each.spans) for one in dialogues for each in one.turns[1::2])
    named = sum("_name]" in text for text in texts)
    assert marked <= named < 1.2 * marked
