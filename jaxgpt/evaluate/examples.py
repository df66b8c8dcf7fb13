"""What replies are asked for and measured against: contexts with the replies that people gave."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.corpora import read_text

_HUMAN = 1  # of several references, the second is how a person does


class Example(NamedTuple):
    """context: what was said before, none where only given replies are measured; references: at least one.

    human: a reply of a person that is measured as those of systems are, and that none of them is compared with.
    """

    context: tuple[Turn, ...]
    references: tuple[str, ...]
    human: str | None = None


def example(context: tuple[Turn, ...], references: Sequence[str]) -> Example:
    """Of several references the second is held out as the human reply, as in DSTC-7 and DialoGPT."""
    if len(references) <= _HUMAN:
        return Example(context, tuple(references))
    others = (*references[:_HUMAN], *references[_HUMAN + 1 :])
    return Example(context, others, references[_HUMAN])


def before_reply(texts: Sequence[str]) -> tuple[Turn, ...]:
    """Turns that role 1 answers: the last has role 0, the one before it role 1, and so on."""
    return tuple(Turn(text, (len(texts) - 1 - number) % 2) for number, text in enumerate(texts))


def examples_of(conversations: Iterable[Conversation], role: int = 1, last_only: bool = False) -> list[Example]:
    """Each turn of `role` with all before it as its context, or of each conversation only the last such turn.

    A turn before which nothing was said, and one without text, is no example.
    """
    found = list[Example]()
    for conversation in conversations:
        turns = conversation.turns
        answers = [n for n, turn in enumerate(turns) if n and turn.role == role and turn.text.strip()]
        found += [Example(turns[:n], (turns[n].text,)) for n in (answers[-1:] if last_only else answers)]
    return found


def read_examples(file: str) -> list[Example]:
    """JSON Lines: {"context": ["a", "b"], "references": ["c", "d"]}; role 1 is to answer.

    UserError where a line is anything else, or has no reference or no context.
    """
    return [_example(line, f"{file}:{number}") for number, line in enumerate(read_lines(file), 1) if line.strip()]


def _example(line: str, where: str) -> Example:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: this is no JSON ({error}); a line is an object of context and references") from None
    if not isinstance(content, dict):
        raise UserError(f'{where}: this is {_kind(content)}; write {{"context": [...], "references": [...]}}')
    lists = {name: content.get(name) for name in ("context", "references")}
    for name, texts in lists.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{where}: {name} is {_kind(texts)}; it must be a list of texts")
        if not any(text.strip() for text in texts):
            raise UserError(f"{where}: {name} has no text; give one, or leave the line out")
    references = [text for text in lists["references"] or [] if text.strip()]
    return example(before_reply(lists["context"] or []), references)


def _kind(value: Any) -> str:
    return "absent" if value is None else f"{json.dumps(value, ensure_ascii=False):.60}"


def read_lines(file: str) -> list[str]:
    """Lines of what `read_text` reads, without their ends, of any system."""
    text = read_text(file)
    # Not splitlines, which also splits at characters that stand within replies.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
