"""Match and Success of MultiWOZ: whether the system offered what fits the user's goal, and told all that was asked.

The belief states are those of the data; the system's turns have placeholders such as [hotel_name].
Source: Budzianowski et al. 2018, `evaluate.py` of github.com/budzianowski/multiwoz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.evaluate.bleu import Bleu, bleu
from jaxgpt.evaluate.tasks.database import SEARCHED, Databases
from jaxgpt.evaluate.tasks.sequicity_bleu import sequicity_bleu
from jaxgpt.evaluate.tasks.woz import WozDialogue

_TOLD = ("phone", "address", "postcode", "id")  # these count as told wherever they stand; a reference once it is booked
_BOOKED_FIRST = ("restaurant", "hotel", "train")


@dataclass(frozen=True)
class MultiWozMetrics:
    """match, success: share of dialogues, 0 to 1; bleu: of the system's turns, sacrebleu over words, 0 to 100.

    bleu_sequicity: the same by the formula of the source, 0 to 1. match_by_domain: share of the goals of that domain.
    """

    dialogues: int
    turns: int
    match: float
    success: float
    match_by_domain: Mapping[str, float]
    bleu: Bleu
    bleu_sequicity: float

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "bleu": vars(self.bleu)}


def measure_multiwoz(
    dialogues: Sequence[WozDialogue],
    replies: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    databases: Databases,
) -> MultiWozMetrics:
    """replies, references: with placeholders, one for each of the system's turns of each dialogue, in order.

    UserError where there is no dialogue, or one has another number of replies or references than of system's turns.
    """
    if not dialogues:
        raise UserError("there are 0 dialogues to measure; give a split that has some")
    for dialogue, own, wanted in zip(dialogues, replies, references, strict=True):
        turns = len(dialogue.turns) // 2
        for name, texts in (("replies", own), ("references", wanted)):
            if len(texts) != turns:
                raise UserError(
                    f"dialogue {dialogue.name} has {len(texts)} {name} for {turns} turns of the system; give one each"
                )
    found = [judge(dialogue, own, databases) for dialogue, own in zip(dialogues, replies, strict=True)]
    by_domain: dict[str, list[bool]] = {}
    for one in found:
        for domain, matches in one.matches.items():
            by_domain.setdefault(domain, []).append(matches)
    said = [text for own in replies for text in own]
    wanted_texts = [text for own in references for text in own]
    return MultiWozMetrics(
        len(dialogues),
        len(said),
        sum(one.match for one in found) / len(found),
        sum(one.success for one in found) / len(found),
        {domain: sum(matches) / len(matches) for domain, matches in sorted(by_domain.items())},
        bleu(said, [[text] for text in wanted_texts], "none"),
        sequicity_bleu(said, wanted_texts),
    )


@dataclass(frozen=True)
class Judged:
    """matches: by domain of the goal; success: all match, and all that was asked was told."""

    matches: Mapping[str, bool]
    success: bool

    @property
    def match(self) -> bool:
        return all(self.matches.values())


def judge(dialogue: WozDialogue, replies: Sequence[str], databases: Databases) -> Judged:
    """One dialogue, by the system's turns as they were generated.

    Which row a system means that says [hotel_name] can't be known, so one of those that fit the belief state is drawn,
    by the dialogue's name; a row that still fits at a later turn stays.
    """
    draw = Random(dialogue.name)
    offered: dict[str, int] = {}
    told: dict[str, set[str]] = {domain: set() for domain in dialogue.goals}
    for turn, reply in zip(dialogue.turns[1::2], replies, strict=True):
        for domain in dialogue.goals:
            # Any id counts as an offer in every domain, as in the source: only trains have one.
            if domain in SEARCHED and (f"[{domain}_name]" in reply or "_id" in reply):
                fitting = databases.find(domain, turn.belief.get(domain, {}))
                if fitting and offered.get(domain) not in fitting:
                    offered[domain] = draw.choice(fitting)
            told[domain] |= {slot for slot in _TOLD if f"{domain}_{slot}]" in reply}
            if f"{domain}_reference" in reply and (domain not in _BOOKED_FIRST or domain in turn.booked):
                told[domain].add("reference")
    matches = {domain: _matches(dialogue, domain, offered.get(domain), databases) for domain in dialogue.goals}
    complete = all(goal.requested <= told[domain] for domain, goal in dialogue.goals.items())
    return Judged(matches, all(matches.values()) and complete)


def _matches(dialogue: WozDialogue, domain: str, offered: int | None, databases: Databases) -> bool:
    goal = dialogue.goals[domain]
    if domain not in SEARCHED or "name" in goal.informed:
        return True  # there is nothing to choose from, or the user has chosen
    if offered is None:
        return domain == "train" and "id" not in goal.requested
    return offered in databases.find(domain, goal.informed)
