"""Success-F1 of CamRest676: whether the system told what was asked for, by the placeholders that it says.

Source: Lei et al. 2018 (Sequicity), `metric.py` of github.com/WING-NUS/sequicity, as ARDM uses it.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.evaluate.bleu import Bleu, bleu
from jaxgpt.evaluate.tasks.sequicity_bleu import sequicity_bleu

_SLOT = re.compile(r"(\w+?)_SLOT")
_ENDS = ("<GO>", "</s>")  # around each turn where the source counts n-grams
_NOT_ASKED = "name"  # every offer has one


@dataclass(frozen=True)
class CamRestMetrics:
    """success_f1, precision, recall: 0 to 1, of the slots that a dialogue's system told, over all dialogues.

    bleu: of the turns, sacrebleu over words, 0 to 100. bleu_sequicity: by the formula and with the marks of the source,
    0 to 1, which is what papers on CamRest676 quote.
    """

    dialogues: int
    turns: int
    success_f1: float
    precision: float
    recall: float
    bleu: Bleu
    bleu_sequicity: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ontology:
    """slots: of each value that a user may ask for, such as "thai" -> "food"."""

    slots: Mapping[str, str] = field(repr=False)

    def comparable(self, text: str) -> str:
        """A turn in lower case with words between spaces, and values as the placeholders that they stand for.

        <name_SLOT> becomes name_SLOT; a comma becomes a full stop, as in the source.
        """
        plain = text.lower().replace("slot", "SLOT").replace("<", "").replace(">", "")
        for mark, spaced in ((".", " ."), (",", " ."), ("?", " ?")):
            plain = plain.replace(mark, spaced)
        return " ".join(self._values.sub(lambda found: f"{self.slots[found[1]]}_SLOT", plain).split())

    @cached_property
    def _values(self) -> re.Pattern[str]:
        """A value at the start of a word, with what its last word goes on with, as in "moderately"."""
        longest_first = sorted(self.slots, key=len, reverse=True)
        return re.compile(rf"(?<![^ ])({'|'.join(map(re.escape, longest_first))})[^\W_]*")


def load_ontology(path: Path) -> Ontology:
    """CamRestOTGY.json; UserError where it is missing or has no values under `informable`."""
    if not path.is_file():
        raise UserError(f"{path} is missing; CamRestOTGY.json comes with CamRest676.json")
    try:
        informable = json.loads(path.read_text(encoding="utf-8"))["informable"]
        slots = {str(value).lower(): str(slot) for slot, values in informable.items() for value in values}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not CamRest676's ontology ({error!r}); get it again") from None
    if not slots:
        raise UserError(f"{path} has no values under informable; get it again")
    return Ontology(slots)


def measure_camrest(
    replies: Sequence[Sequence[str]], references: Sequence[Sequence[str]], ontology: Ontology
) -> CamRestMetrics:
    """replies, references (dialogues, turns): the system's turns with placeholders such as <address_SLOT>.

    Precision is over all slots that replies tell, recall over all that references tell, each slot once a dialogue;
    names do not count. UserError where there is no dialogue, or one has not as many replies as references.
    """
    if not references or not any(references):
        raise UserError("there are 0 replies to measure; give dialogues with turns of the system")
    if len(replies) != len(references):
        raise UserError(f"there are replies of {len(replies)} dialogues and references of {len(references)}; give both")
    said, wanted = list[str](), list[str]()
    right = told = asked = 0
    for number, (own, references_of_own) in enumerate(zip(replies, references, strict=True), 1):
        if len(own) != len(references_of_own):
            raise UserError(
                f"dialogue {number} has {len(own)} replies and {len(references_of_own)} references; give one each"
            )
        texts = [ontology.comparable(text) for text in own]
        wanted_texts = [ontology.comparable(text) for text in references_of_own]
        slots, wanted_slots = set(_slots(texts)), set(_slots(wanted_texts))
        right, told, asked = right + len(slots & wanted_slots), told + len(slots), asked + len(wanted_slots)
        said += texts
        wanted += wanted_texts
    precision, recall = right / max(told, 1), right / max(asked, 1)
    return CamRestMetrics(
        len(replies),
        len(said),
        2 * precision * recall / (precision + recall) if right else 0.0,
        precision,
        recall,
        bleu(said, [[text] for text in wanted], "none"),
        sequicity_bleu(*([" ".join((_ENDS[0], text, _ENDS[1])) for text in texts] for texts in (said, wanted))),
    )


def _slots(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        for word in text.split():
            if (found := _SLOT.fullmatch(word)) and found[1] != _NOT_ASKED:
                yield found[1]
