"""Transcripts are what data preparation takes, and a file that is none is never written to."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.make import make
from data_prep.options import Options
from jaxgpt.chat.transcript import Transcript
from jaxgpt.data.dialogue import Turn
from jaxgpt.data.loader import Pages
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError

NAMES = ("Anna", "Bot")
FIRST = [Turn("hello — naïve 🤖\u2028", 0), Turn('two\nlines and "quotes"', 1)]
SECOND = [Turn("bye", 0), Turn("bye bye", 1), Turn("really", 0), Turn("yes", 1)]


def test_data_preparation_takes_it_back(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    assert Transcript(path).append(FIRST, NAMES)
    assert not Transcript(path).append([], NAMES)
    assert Transcript(path).append(SECOND, NAMES)
    options = Options(source=[f"dialogue:{path}"], format="tags", row_length=128, shards=1, valid_fraction=0.0)
    make(options, tmp_path / "pages", processes=1)
    rows = Pages(tmp_path / "pages", "train").in_order(0, 1)
    text = load_tokenizer("gpt2").decode(rows["input_ids"][0][rows["segments"][0] > 0].tolist())
    written = ["".join(f"{'AB'[role]}:{text.strip()}\n\n\n" for text, role, _ in turns) for turns in (FIRST, SECOND)]
    assert text in (written[0] + written[1], written[1] + written[0])


def test_lines_are_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('["hello", "hi"]\n{"turns": [{"text": "x", "role": "Anna"}]}')  # no newline at its end
    one, two = Transcript(path), Transcript(path)
    one.append(FIRST, NAMES)
    one.append(SECOND, NAMES)
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert lines[0] == ["hello", "hi"]
    assert [turn["text"] for turn in lines[2]["turns"]] == [turn.text for turn in FIRST]
    assert [turn["role"] for turn in lines[3]["turns"]] == [0, 1, 0, 1]
    assert lines[3]["names"] == ["Anna", "Bot"]
    two.append(SECOND, NAMES)  # a blank line at most lies between them
    assert [json.loads(line) for line in path.read_bytes().split(b"\n") if line][4] == lines[3]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"years of work\n", 1),
        (b'["hello"]\n{"prompt": "x"}\n', 2),
        (b'["hello"]\n{"turns": [{"said": "x"}]}\n', 2),
        (b'["hello"]\n["a", 5]', 2),
        (b"\xff\xfe\x00\n", 1),
        (b'"hello"\n', 1),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "thesis"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"thesis, line {line} is no conversation, so the file was left as it is"):
        Transcript(path)
    assert path.read_bytes() == content


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file; give the name of one"):
        Transcript(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        Transcript(tmp_path / "nothing" / "talk.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.jsonl"
    transcript = Transcript(path)
    transcript.append(FIRST, NAMES)
    before = path.read_bytes()
    really_open = Path.open

    class Full:
        """A file on a disk with room for ten bytes."""

        def __init__(self, file: Any):
            self._file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int | None:
            return self._file.write(data[:10])

    monkeypatch.setattr(Path, "open", lambda *args, **kwargs: Full(really_open(*args, **kwargs)))
    with pytest.raises(OSError, match="No space left") as caught:
        transcript.append(SECOND, NAMES)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_bytes() == before
