"""Replies of several systems against those of people, in one table.

Source of the columns and of the human row: Zhang et al. 2020, "DialoGPT", tables 2 and 3; Galley et al. 2019,
"Grounded Response Generation Task at DSTC7".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.evaluate.bleu import Tokenization
from jaxgpt.evaluate.examples import Example
from jaxgpt.evaluate.reply_metrics import ReplyMetrics, measure_replies

HUMAN = "human"
_COLUMNS = ("NIST-2", "NIST-4", "BLEU-2", "BLEU-4", "METEOR", "ENT-4", "DIST-1", "DIST-2", "Avg. len", "Replies")


@dataclass(frozen=True)
class Evaluation:
    """rows: of the human reply, where there is one, and of each system. lowercase: whether case was ignored."""

    rows: dict[str, ReplyMetrics]
    tokenize: Tokenization
    lowercase: bool

    def as_json(self) -> dict[str, Any]:
        rows = {name: row.as_json() for name, row in self.rows.items()}
        return {"tokenize": self.tokenize, "lowercase": self.lowercase, "systems": rows}


def evaluate_replies(
    examples: Sequence[Example],
    systems: Mapping[str, Sequence[str]],
    tokenize: Tokenization = "13a",
    lowercase: bool = False,
) -> Evaluation:
    """systems: name -> a reply for each example, in their order.

    All rows are measured against the same references, the human one over the examples that have such a reply; its
    number of replies may so be smaller. UserError where nothing is to be measured, a system has another number of
    replies, or is called `human` where there is a human row.
    """

    def cased(text: str) -> str:
        return text.lower() if lowercase else text

    people = [one for one in examples if one.human is not None]
    if people and HUMAN in systems:
        raise UserError(f"a system is called {HUMAN!r}, which is the row of the held-out references; rename it")
    if not examples or not (systems or people):
        raise UserError(
            f"there are {len(examples)} examples, of them {len(people)} with a human reply, and {len(systems)} "
            "systems; give at least one example and one reply to it"
        )
    references = [[cased(text) for text in one.references] for one in examples]
    rows = dict[str, ReplyMetrics]()
    if people:
        own = [texts for one, texts in zip(examples, references, strict=True) if one.human is not None]
        rows[HUMAN] = measure_replies([cased(one.human or "") for one in people], own, tokenize)
    for name, replies in systems.items():
        if len(replies) != len(examples):
            raise UserError(
                f"{name} has {len(replies)} replies, but there are {len(examples)} examples; give one reply to each"
            )
        rows[name] = measure_replies([cased(reply) for reply in replies], references, tokenize)
    return Evaluation(rows, tokenize, lowercase)


def table(evaluation: Evaluation) -> list[str]:
    """Markdown lines. NIST is mteval's, in bits, ENT-4 in nats; BLEU, METEOR and DIST in percent."""
    cells = [["System", *_COLUMNS], ["---", *["---:"] * len(_COLUMNS)]]
    cells += [[name, *_cells(row)] for name, row in evaluation.rows.items()]
    return [f"| {' | '.join(line)} |" for line in cells]


def _cells(row: ReplyMetrics) -> list[str]:
    return [
        *(f"{row.nist_mteval[order - 1]:.2f}" for order in (2, 4)),
        *(f"{row.bleu[order - 1]:.2f}" for order in (2, 4)),
        f"{100 * row.meteor_without_synonyms:.2f}",
        f"{row.entropy[3]:.2f}",
        *(f"{100 * part:.2f}" for part in row.distinct),
        f"{row.average_length:.1f}",
        f"{row.replies}",
    ]
