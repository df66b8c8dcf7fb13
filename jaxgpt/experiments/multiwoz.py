"""MultiWOZ 2.1: a model that plays the system, with what a tracker and a database would tell it taken from the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.tasks.database import SEARCHED, Databases, load_databases
from jaxgpt.evaluate.tasks.delexicalise import Delexicaliser, active_domain
from jaxgpt.evaluate.tasks.multiwoz import measure_multiwoz
from jaxgpt.evaluate.tasks.woz import WozDialogue, WozTurn, read_dialogues, read_names
from jaxgpt.experiments.config import MultiWozExperiment
from jaxgpt.experiments.replies import SYSTEM, USER, generate
from jaxgpt.experiments.running import Outcome, Prepared, Row
from jaxgpt.experiments.splits import check_apart

_EARLIER_MATCH, _EARLIER_SUCCESS = "84.78 %", "70.87 %"
_BOOKED, _REFUSED = ("Booking-Book", "Train-OfferBooked"), ("Booking-NoBook", "Train-NoBook")


def prepare(cfg: MultiWozExperiment) -> Prepared:
    """UserError where a file is missing, a dialogue lacks a part, a split is empty, or two share a dialogue."""
    databases = load_databases(Path(cfg.raw) / cfg.databases)
    writer = _Writer(databases, Delexicaliser(databases), cfg.most_rows)
    splits = _splits(cfg)
    written = {name: [writer.conversation(dialogue) for dialogue in own] for name, own in splits.items()}
    return Prepared(
        written["train"],
        written["valid"],
        lambda run: _measure(cfg, splits["test"], written["test"], databases, run),
    )


def _splits(cfg: MultiWozExperiment) -> dict[str, list[WozDialogue]]:
    files = {name: cfg.file(getattr(cfg, f"{name}_file")) for name in ("train", "valid", "test")}
    read = {path: list(read_dialogues(path)) for path in set(files.values())}
    lists = {name: getattr(cfg, f"{name}_list") for name in files}
    names = {split: read_names(Path(cfg.raw) / name) if name else None for split, name in lists.items()}
    held_out = (names["valid"] or frozenset()) | (names["test"] or frozenset())
    splits = dict[str, list[WozDialogue]]()
    for split, path in files.items():
        chosen = names[split]
        splits[split] = [
            dialogue
            for dialogue in read[path]
            if (dialogue.name in chosen if chosen is not None else split != "train" or dialogue.name not in held_out)
        ]
        if not splits[split]:
            raise UserError(
                f"the split {split} is empty: {path} has {len(read[path])} dialogues and {split}_list is "
                f"{lists[split]}; give the file and the list of the same data"
            )
    check_apart(
        {split: [dialogue.name for dialogue in own] for split, own in splits.items()},
        {split: f"{split}_file {path}, {split}_list {lists[split]}" for split, path in files.items()},
    )
    return splits


@dataclass(frozen=True)
class _Writer:
    databases: Databases
    delexicaliser: Delexicaliser
    most_rows: int

    def conversation(self, dialogue: WozDialogue) -> Conversation:
        """Turns with placeholders; the user's have in a last line what the system looked up: rows;booking;domain;

        Source: the input of ARDM's model, where that stands before the system's turn.
        """
        texts, turns, domain = self.delexicaliser.dialogue(dialogue), list[Turn](), ""
        for number in range(0, len(dialogue.turns) - 1, 2):
            user, system = dialogue.turns[number : number + 2]
            domain = active_domain(user, domain)
            rows = self._rows(domain, system.belief)
            turns.append(Turn(f"{texts[number]}\n{rows};{_booking(system)};{domain or 'general'};", USER))
            turns.append(Turn(texts[number + 1], SYSTEM))
        return Conversation(tuple(turns))

    def _rows(self, domain: str, belief: Mapping[str, Mapping[str, str]]) -> int:
        if domain not in SEARCHED:
            return 0
        return min(len(self.databases.find(domain, belief.get(domain, {}))), self.most_rows)


def _booking(system: WozTurn) -> str:
    """What became of a booking in this turn, which the system knows before it speaks."""
    if not system.acts.isdisjoint(_BOOKED):
        return "book"
    return "none" if system.acts.isdisjoint(_REFUSED) else "fail"


def _measure(
    cfg: MultiWozExperiment, test: list[WozDialogue], written: list[Conversation], databases: Databases, run: Path
) -> Outcome:
    references = [[turn.text for turn in talk.turns if turn.role == SYSTEM] for talk in written]
    replies = [[" ".join(reply.lower().split()) for reply in own] for own in generate(cfg, run, written)]
    found = measure_multiwoz(test, replies, references, databases)
    of_people = measure_multiwoz(test, references, references, databases)
    rows = (
        Row("Match", f"{100 * found.match:.2f} %", _EARLIER_MATCH),
        Row("Success", f"{100 * found.success:.2f} %", _EARLIER_SUCCESS),
        Row("BLEU, sacrebleu", f"{found.bleu.by_order[-1]:.2f}"),
        Row("BLEU, by Sequicity's formula", f"{found.bleu_sequicity:.4f}"),
        Row("Match, Success of what people said", f"{100 * of_people.match:.2f} %, {100 * of_people.success:.2f} %"),
    )
    note = (
        f"On {found.dialogues} dialogues, {found.turns} turns, with the data's belief states. Times of trains are "
        "compared as times; the earlier system's script compares them as text."
    )
    report = {
        "test_dialogues": found.dialogues,
        "metrics": found.as_json(),
        "people": {"match": of_people.match, "success": of_people.success},
    }
    return Outcome(report, rows, (note,))
