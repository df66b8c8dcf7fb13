"""Real conversations that come with the installation: those of PyPI's chitchat-dataset, for the demo and small studies.

    python -m jaxgpt.chitchat DIR      # as documents: DIR/train.jsonl, and every twentieth in DIR/test.jsonl

Source: BYU Perception, Control and Cognition Lab, chitchat-dataset (MIT).
"""

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxgpt.command import run
from jaxgpt.data.atomic import write_text
from jaxgpt.errors import UserError

_PACKAGE = "chitchat_dataset"
_TEST_EVERY = 20  # documents


def conversations() -> list[list[str]]:
    """Turns of each conversation, in the package's order; what a speaker wrote in a row is one turn."""
    spec = importlib.util.find_spec(_PACKAGE)  # found, not imported: only its data file is wanted
    if spec is None or spec.origin is None:
        raise UserError("the conversations are in the package chitchat-dataset; pip install chitchat-dataset==0.9.0")
    data = json.loads((Path(spec.origin).parent / "dataset.json").read_text(encoding="utf-8"))
    return [[" ".join(message["text"] for message in turn) for turn in talk["messages"]] for talk in data.values()]


def write_lines(path: Path, items: Iterable[Any]) -> None:
    """JSON Lines."""
    write_text(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))


def write_documents(folder: Path) -> None:
    """train.jsonl and test.jsonl: each conversation of two turns or more as a text, a turn a line."""
    texts = [{"text": "\n".join(turns)} for turns in conversations() if len(turns) > 1]
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "train.jsonl", (text for number, text in enumerate(texts, 1) if number % _TEST_EVERY))
    write_lines(folder / "test.jsonl", texts[_TEST_EVERY - 1 :: _TEST_EVERY])


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("write python -m jaxgpt.chitchat DIR, the folder for train.jsonl and test.jsonl")
    write_documents(Path(sys.argv[1]))


if __name__ == "__main__":
    run(main)
