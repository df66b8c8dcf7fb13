"""The system's turns of a test set, generated one by one after what was really said before."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from jaxgpt.config import RUN_FILE
from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.experiments.config import Experiment

FILE = "replies.json"
USER, SYSTEM = 0, 1


def contexts(conversation: Conversation) -> Iterator[tuple[Turn, ...]]:
    """What the system has heard and said before each of its turns."""
    for number, turn in enumerate(conversation.turns):
        if turn.role == SYSTEM:
            yield conversation.turns[:number]


def generate(cfg: Experiment, run: Path, conversations: Sequence[Conversation]) -> list[list[str]]:
    """A reply in place of each of the system's turns, by conversation.

    They are kept in the file replies.json, and taken from there by a later call for the same weights, data, format and
    decoding.
    """
    from jaxgpt.train.models import load_model
    from jaxgpt.train.retention import FOLDER
    from jaxgpt.train.seal import SEAL

    model = load_model(run)
    asked = [list(contexts(conversation)) for conversation in conversations]
    own_config = (run / RUN_FILE).read_text(encoding="utf-8")
    sealed = (run / FOLDER / str(model.step) / SEAL).read_text(encoding="utf-8")  # check-sums of the weights
    asked_for = json.dumps([own_config, sealed, cfg.format, asdict(cfg.decoding), asked], sort_keys=True)
    key, path = hashlib.sha256(asked_for.encode()).hexdigest(), Path(cfg.output) / FILE
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [list(of_one) for of_one in kept["replies"]]

    from jaxgpt.chat.answering import Answerer

    answerer = Answerer(model, FORMATS[cfg.format], cfg.decoding, batch_size=cfg.reply_batch)
    drawn = iter(answerer.answer([context for of_one in asked for context in of_one], SYSTEM))
    replies = [[next(drawn) for _ in of_one] for of_one in asked]
    write_text(path, json.dumps({"key": key, "step": model.step, "replies": replies}, indent=1, ensure_ascii=False))
    return replies
