"""Chat messages as JSON Lines: OpenAI's and Hugging Face's `messages`, and ShareGPT's `conversations`.

Sources: OpenAI's chat format for fine-tuning ({"messages": [{"role", "content"}]}); ShareGPT's
{"conversations": [{"from", "value"}]}.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.jsonl import json_values
from data_prep.sources.lines import line_chunks
from data_prep.sources.turns import DialogueFiles, conversation, located, shown, weight_of
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

_ROLES = {"user": 0, "human": 0, "assistant": 1, "gpt": 1, "bot": 1, "model": 1}
_LEFT_OUT = ("system", "developer", "tool", "function")
_HINT = 'each line must be an object such as {"messages": [{"role": "user", "content": "hello"}]}'
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Chat(DialogueFiles):
    """A line is {"messages": [...]}, {"conversations": [...]} or a bare list of messages.

    A message has `role` and `content`, or `from` and `value`; it may have a `weight` of its loss. The user is role 0,
    the assistant role 1. Messages of the system and of tools are left out and counted, and so are parts of a content
    that are no text; parts of text are joined with line ends.
    """

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return line_chunks(self.files, begin, chunk_bytes)

    def read(self, chunk: Chunk) -> Iterator[Conversation | Dropped]:
        for number, value in json_values(chunk, _HINT):
            dropped: list[Dropped] = []
            with located(chunk, number):
                found = conversation(_turns(value, dropped))
            yield found
            yield from dropped


def _turns(value: Any, dropped: list[Dropped]) -> Iterator[Turn]:
    messages = value.get("messages", value.get("conversations")) if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise UserError(f"found {shown(value)} where messages belong; {_HINT}")
    for message in messages:
        if not isinstance(message, dict):
            raise UserError(f"found {shown(message)} where a message belongs; {_HINT}")
        role = message.get("role", message.get("from"))
        text = _text(message, dropped)
        if role in _LEFT_OUT:
            dropped.append(Dropped(f"{role} message", text[:80]))
        elif isinstance(role, str) and role in _ROLES:
            yield Turn(text, _ROLES[role], weight_of(message.get("weight", 1.0)))
        else:
            raise UserError(f"found the role {shown(role)}; known are {', '.join((*_ROLES, *_LEFT_OUT))}")


def _text(message: dict[str, Any], dropped: list[Dropped]) -> str:
    """A message's text; one that calls a tool may have none."""
    keys = [key for key in ("content", "value", *_CALLS) if key in message]
    content = message.get("content", message.get("value"))
    if isinstance(content, str) or (content is None and keys):
        return content or ""
    if not isinstance(content, list):
        raise UserError(f"found {shown(message)} where a message with content belongs; {_HINT}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind != "text":
            dropped.append(Dropped(f"{kind} in a message", shown(part)))
        else:
            raise UserError(f'found {shown(part)} where a part such as {{"type": "text", "text": "hello"}} belongs')
    return "\n".join(texts)
