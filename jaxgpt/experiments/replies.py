"""The system's turns of a test set, generated one by one after what was really said before."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from jaxgpt.config import RUN_FILE
from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import FORMATS, Conversation, Turn
from jaxgpt.experiments.config import Experiment

FILE = "replies.json"
USER, SYSTEM = 0, 1
_BLOCK = 256  # the file is written after so many replies, which is all that a killed call loses

_Reply = TypeVar("_Reply", str, str | None)


def contexts(conversation: Conversation) -> Iterator[tuple[Turn, ...]]:
    """What the system has heard and said before each of its turns."""
    for number, turn in enumerate(conversation.turns):
        if turn.role == SYSTEM:
            yield conversation.turns[:number]


def generate(cfg: Experiment, run: Path, conversations: Sequence[Conversation]) -> list[list[str]]:
    """A reply in place of each of the system's turns, by conversation.

    They are kept in the file replies.json, null for those that are still missing, and taken from there by a later call
    for the same weights, data, format and decoding.
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
    found = _kept(path, key)
    all_asked = [context for of_one in asked for context in of_one]
    if len(found) < len(all_asked):
        from jaxgpt.chat.answering import Answerer

        answerer = Answerer(model, FORMATS[cfg.format], cfg.decoding, batch_size=cfg.reply_batch)
        written = len(found)
        for batch in answerer.batches(all_asked, SYSTEM, done=frozenset(found)):
            found |= batch
            if len(found) - written >= _BLOCK or len(found) == len(all_asked):
                replies = _by_conversation(asked, [found.get(number) for number in range(len(all_asked))])
                content = {"key": key, "step": model.step, "replies": replies}
                write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
                written = len(found)
    return _by_conversation(asked, [found[number] for number in range(len(all_asked))])


def _by_conversation(asked: Sequence[Sequence[object]], replies: Sequence[_Reply]) -> list[list[_Reply]]:
    """replies: one for each of all that is asked, in order."""
    following = iter(replies)
    return [[next(following) for _ in of_one] for of_one in asked]


def _kept(path: Path, key: str) -> dict[int, str]:
    """Number of a context among all -> its reply, of those in the file; none where it is of another key."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept.get("key") != key:
        return {}
    replies = (reply for of_one in kept["replies"] for reply in of_one)
    return {number: reply for number, reply in enumerate(replies) if reply is not None}
