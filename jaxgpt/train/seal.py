"""A sealed folder: a list of its files, written last, says what belongs to it, so that any damage can be named."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from jaxgpt.data.atomic import write_text
from jaxgpt.data.records import crc32c_of_file
from jaxgpt.data.storage import in_threads
from jaxgpt.errors import UserError

SEAL = "files.json"
_THREADS = 4


class DamagedError(UserError):
    """What was written is not what is there."""


class Content(NamedTuple):
    """Of a file. crc32c: hex."""

    bytes: int
    crc32c: str


def seal(folder: Path) -> None:
    """Writes the list of all files that the folder holds, after they have reached the disk."""

    def sealed(name: str) -> tuple[str, Content]:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        return name, content_of(folder / name)

    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    found = dict(in_threads(sealed, names, _THREADS))
    write_text(folder / SEAL, json.dumps({name: found[name]._asdict() for name in names}, indent=1))


def content_of(path: Path) -> Content:
    return Content(path.stat().st_size, crc32c_of_file(path))


def sealed_files(folder: Path) -> dict[str, Content]:
    """What the seal says, by the files' names within the folder; DamagedError where it is missing or unreadable."""
    try:
        text = (folder / SEAL).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DamagedError(f"{folder / SEAL} is missing") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"{folder / SEAL} can't be read ({error})") from error
    return parse_seal(text, str(folder / SEAL))


def parse_seal(text: str, name: str) -> dict[str, Content]:
    """name: of the file, for DamagedError."""
    try:
        return {file: Content(int(entry["bytes"]), entry["crc32c"]) for file, entry in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{name} can't be read ({error})") from error


def check_seal(folder: Path, *below: str) -> None:
    """DamagedError with the first file that is missing or of other content. below: only in these folders of it."""

    def check(entry: tuple[str, Content]) -> str | None:
        name, wanted = entry
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        found = content_of(folder / name)
        if found.bytes != wanted.bytes:
            return f"{folder / name} has {found.bytes} bytes, {wanted.bytes} were written"
        if found.crc32c != wanted.crc32c:
            return f"{folder / name} has CRC-32C {found.crc32c}, {wanted.crc32c} was written"
        return None

    files = [entry for entry in sealed_files(folder).items() if not below or entry[0].partition("/")[0] in below]
    problems = sorted(problem for problem in in_threads(check, files, _THREADS) if problem)
    if problems:
        raise DamagedError(problems[0])
