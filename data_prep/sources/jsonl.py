"""Documents as JSON Lines: an object per line, the text in one of its fields."""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import orjson

from data_prep.sources.chunk import Chunk
from data_prep.sources.files import FileSource
from data_prep.sources.lines import line_chunks, not_utf8, where
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class JsonLines(FileSource):
    """field: of the object, that holds the text; a.b is the field b of the object in the field a."""

    field: str = "text"
    holds: ClassVar[Literal["documents"]] = "documents"

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        return line_chunks(self.files, begin, chunk_bytes)

    def read(self, chunk: Chunk) -> Iterator[str]:
        path = self.field.split(".")
        for number, value in json_values(chunk, 'each line must be an object such as {"text": "hello"}'):
            text = value
            for key in path:
                text = text.get(key) if isinstance(text, dict) else None
            if not isinstance(text, str):
                found = json.dumps(value)[:60]
                if isinstance(value, dict):
                    found = f"an object with {', '.join(value) or 'nothing'}"
                raise UserError(
                    f"{where(chunk, number)}: found {found} where the field {self.field!r} should hold the text; name "
                    "the right one with --text_field"
                )
            yield text


def json_values(chunk: Chunk, hint: str) -> Iterator[tuple[int, Any]]:
    """(line's number within the chunk, value) of JSON Lines; UserError with file and line for what is not JSON."""
    data = chunk.data.removeprefix(codecs.BOM_UTF8) if chunk.offset == 0 else chunk.data
    for number, line in enumerate(data.split(b"\n")):
        if not line or line.isspace():
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError:
            yield number, _json_value(chunk, number, line, hint)


def _json_value(chunk: Chunk, number: int, line: bytes, hint: str) -> Any:
    """The value of a line that orjson refuses: Python takes NaN and deeper nesting, and says what is wrong."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise not_utf8(chunk, number, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where(chunk, number)}: not JSON ({error}); {hint}") from None
    _refuse_half_characters(value, chunk, number)
    return value


def _refuse_half_characters(value: Any, chunk: Chunk, number: int) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where(chunk, number)}: {error.object[error.start : error.end]!r} is half a surrogate pair and no "
            "character; write the whole character"
        ) from None
