"""MultiWOZ's turns with placeholders, such as [hotel_name], where values stood, so that figures don't depend on values.

Placeholders are those of Budzianowski et al. 2018: [DOMAIN_name], [DOMAIN_address], [DOMAIN_phone], [DOMAIN_postcode],
[DOMAIN_reference], [train_id], [taxi_type], [hospital_department], and for what users say as well [value_time],
[value_day], [value_place], [value_price], [value_count], [value_area], [value_food], [value_pricerange].
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxgpt.evaluate.tasks.database import Databases
from jaxgpt.evaluate.tasks.woz import DOMAINS, Span, WozDialogue, WozTurn

# Slots of dialogue acts; what is left out, such as Internet and Parking, is said in words that stay.
_OF_DOMAIN = {
    "Name": "name",
    "Addr": "address",
    "Phone": "phone",
    "Post": "postcode",
    "Ref": "reference",
    "Id": "id",
    "Car": "type",
    "Department": "department",
}
_OF_ANY = {
    **dict.fromkeys(("Leave", "Arrive", "Time"), "time"),
    **dict.fromkeys(("Depart", "Dest"), "place"),
    **dict.fromkeys(("Choice", "People", "Stay", "Stars"), "count"),
    **dict.fromkeys(("Ticket", "Fee"), "price"),
    **{"Day": "day", "Area": "area", "Food": "food", "Price": "pricerange"},
}
_COLUMNS = ("name", "address", "phone", "postcode", "department")
_VALUES = {  # columns whose values belong to no row
    **{"area": "area", "food": "food", "pricerange": "pricerange"},
    **dict.fromkeys(("departure", "destination"), "place"),
}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_PATTERNS = (  # of a word that nothing else explains, in a domain
    (r"\(?\d{10,11}\)?", "phone"),
    (r"cb\d{1,2}\d[a-z]{2}", "postcode"),
    (r"tr\d{4}", "id"),
    (r"#?(?=[a-z0-9]*\d)(?=[a-z0-9]*[a-z])[a-z0-9]{8}", "reference"),
)
_VALUE_PATTERNS = (
    (r"\d{1,2}:\d{2}(am|pm)?", "time"),
    (r"[£$]?\d+\.\d{1,2}|[£$]\d+", "price"),
    (r"\d+", "count"),
)


@dataclass(frozen=True)
class Delexicaliser:
    """Made once for the databases, as it learns all their values."""

    databases: Databases

    def dialogue(self, dialogue: WozDialogue) -> list[str]:
        """Each turn in lower case, a space between words."""
        texts, domain, codes = list[str](), "", dict[str, str]()
        for number, turn in enumerate(dialogue.turns):
            domain = active_domain(turn, domain)
            # A code is said in the turn whose state has it first, and may be repeated in any later one, by both.
            codes = {**codes, **turn.codes}
            ahead = dialogue.turns[number + 1].codes if number + 1 < len(dialogue.turns) else {}
            texts.append(self.turn(turn, domain, {**ahead, **codes}))
        return texts

    def turn(self, turn: WozTurn, domain: str, codes: Mapping[str, str]) -> str:
        """domain: what is talked about, "" where nothing is; codes: placeholder -> what was made up for it."""
        words = _words(turn)
        marks = [""] * len(words)  # the placeholder that a word is part of, with a number that tells neighbours apart
        for number, span in enumerate(turn.spans):
            slot = _placeholder(span.act, span.slot, span.value, domain)
            if slot and _fits(span, words):
                for place in range(span.first, span.last + 1):
                    marks[place] = marks[place] or f"{number} {slot}"
        self._look_up(words, marks, domain, {key: slot for slot, code in codes.items() if (key := _key(code))})
        return _written(words, marks, domain)

    @cached_property
    def _known(self) -> dict[str, list[tuple[tuple[str, ...], dict[str, str]]]]:
        """By first word: values in words, the longest first, with domain -> placeholder; "" where they are no row's."""
        known: dict[tuple[str, ...], dict[str, str]] = {}
        for domain, rows in self.databases.rows.items():
            for row in rows:
                for column in _COLUMNS:
                    _learn(known, row.get(column), domain, f"{domain}_{column}")
                for column, slot in _VALUES.items():
                    _learn(known, row.get(column), "", f"value_{slot}")
        for day in _DAYS:
            _learn(known, day, "", "value_day")
        by_first: dict[str, list[tuple[tuple[str, ...], dict[str, str]]]] = {}
        for words in sorted(known, key=len, reverse=True):
            by_first.setdefault(words[0], []).append((words, known[words]))
        return by_first

    def _look_up(self, words: Sequence[str], marks: list[str], domain: str, codes: Mapping[str, str]) -> None:
        """Marks values of the databases that no span has, the longest first from the left, and codes."""
        for place, word in enumerate(words):
            if not marks[place] and (slot := codes.get(_key(word))):
                marks[place] = f"code {slot}"
            for value, slots in self._known.get(word, ()):
                here = slice(place, place + len(value))
                if tuple(words[here]) == value and not any(marks[here]):
                    slot = slots.get(domain) or next(iter(slots.values()))
                    marks[here] = [f"{place} {slot}"] * len(value)
                    break


def active_domain(turn: WozTurn, before: str) -> str:
    """What a turn is about: the domain of its acts, the one before where it is among them or there is none."""
    domains = [domain for domain in DOMAINS if any(act.lower().startswith(f"{domain}-") for act in turn.acts)]
    return before if before in domains or not domains else domains[0]


def _placeholder(act: str, slot: str, value: str, domain: str) -> str:
    """Without brackets; "" where the value stays. An act of booking is about `domain`."""
    of_act = act.partition("-")[0].lower()
    of_act = of_act if of_act in DOMAINS else domain
    if slot in _OF_DOMAIN:
        return f"{of_act}_{_OF_DOMAIN[slot]}" if of_act else ""
    if _OF_ANY.get(slot) == "count" and not any(_is_number(word) for word in value.lower().split()):
        return ""  # "many", "a couple"
    if _OF_ANY.get(slot) == "price" and not any(letter.isdigit() for letter in value):
        return ""  # "free"
    return f"value_{_OF_ANY[slot]}" if slot in _OF_ANY else ""


def _words(turn: WozTurn) -> list[str]:
    """In lower case. Annotators saw punctuation and endings such as n't as words, but not every release has them so."""
    as_they_are = turn.text.lower().split()
    apart = re.sub(r"(?<=\w)([?!.,;]+)(?=\s|$)", r" \1", turn.text.lower())
    split = re.sub(r"(?<=\w)('s|'m|'d|'ll|'re|'ve|n't)\b", r" \1", apart).split()
    return max(split, as_they_are, key=lambda words: sum(_fits(span, words) for span in turn.spans))


def _fits(span: Span, words: Sequence[str]) -> bool:
    """Whether these words say what the span says; one of other words says nothing."""
    here = words[span.first : span.last + 1]
    return span.last < len(words) and _key("".join(here)) == _key(span.value) != ""


def _is_number(word: str) -> bool:
    return word.isdigit() or word in _NUMBERS


def _key(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


def _learn(known: dict[tuple[str, ...], dict[str, str]], value: Any, domain: str, slot: str) -> None:
    """value: of a column, None where a row lacks it; a number counts as its digits."""
    words = tuple(re.sub(r"([,'])", r" \1", "" if value is None else str(value).lower()).split())
    if _key("".join(words)):
        known.setdefault(words, {}).setdefault(domain, slot)


def _written(words: Sequence[str], marks: Sequence[str], domain: str) -> str:
    """Marked words as their placeholder, once for neighbours; the rest by its look."""
    parts = list[str]()
    for place, (word, mark) in enumerate(zip(words, marks, strict=True)):
        if not mark:
            parts.append(_by_look(word, domain))
        elif place == 0 or marks[place - 1] != mark:
            parts.append(f"[{mark.split(' ', 1)[1]}]")
    return " ".join(_merged(parts))


def _by_look(word: str, domain: str) -> str:
    for pattern, slot in _PATTERNS if domain else ():
        if re.fullmatch(pattern, word):
            return f"[{'train' if slot == 'id' else domain}_{slot}]"
    for pattern, slot in _VALUE_PATTERNS:
        if re.fullmatch(pattern, word):
            return f"[value_{slot}]"
    return word


def _merged(parts: Sequence[str]) -> list[str]:
    """An address in pieces, with or without commas between them, is one."""
    merged = list[str]()
    for part in parts:
        if part.endswith("_address]") and merged[-2:] == [part, ","]:
            merged.pop()
        elif not (part.endswith("_address]") and merged[-1:] == [part]):
            merged.append(part)
    return merged
