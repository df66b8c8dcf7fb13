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


class Opened:
    """A file that a test looks into."""

    def __init__(self, file: Any):
        self.file = file

    @classmethod
    def instead_of_files(cls, monkeypatch: pytest.MonkeyPatch) -> None:
        really_open = Path.open

        def open_(path: Path, mode: str = "r", **options: Any) -> Any:
            file = really_open(path, mode, **options)
            return cls(file) if "+" in mode else file

        monkeypatch.setattr(Path, "open", open_)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_data_preparation_takes_it_back(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    assert Transcript(path).keep(FIRST, NAMES)
    assert not Transcript(path).keep([], NAMES)
    assert Transcript(path).keep(SECOND, NAMES)
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
    one.keep(FIRST, NAMES)
    one.begin_another()
    one.keep(SECOND, NAMES)
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    assert lines[0] == ["hello", "hi"]
    assert [turn["text"] for turn in lines[2]["turns"]] == [turn.text for turn in FIRST]
    assert [turn["role"] for turn in lines[3]["turns"]] == [0, 1, 0, 1]
    assert lines[3]["names"] == ["Anna", "Bot"]
    two.keep(SECOND, NAMES)
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == [*lines, lines[3]]


def said(path: Path) -> list[list[str]]:
    return [[turn["text"] for turn in json.loads(line)["turns"]] for line in path.read_bytes().split(b"\n")[:-1]]


def test_what_is_kept_again_takes_the_place_of_what_was(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    Transcript(path).keep(SECOND, NAMES)
    before, transcript = path.read_bytes(), Transcript(path)
    retried = [*SECOND[:3], Turn("no", 1)]
    for turns in (SECOND[:2], SECOND, SECOND, retried, FIRST, SECOND[:2]):
        transcript.keep(turns, NAMES)
        assert path.read_bytes().startswith(before)
        assert said(path) == [[turn.text for turn in SECOND], [turn.text for turn in turns]]
    assert not transcript.keep([], NAMES)  # nothing is said: what was stays
    assert len(said(path)) == 2


def test_what_somebody_else_added_stays(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    one, two = Transcript(path), Transcript(path)
    one.keep(SECOND[:2], NAMES)
    two.keep(FIRST, NAMES)
    one.keep(SECOND, NAMES)
    two.keep(FIRST, NAMES)  # the same once more, so there is nothing to do
    assert len(said(path)) == 3
    two.keep(FIRST[:1], NAMES)
    bye, hello = [turn.text for turn in SECOND], [turn.text for turn in FIRST]
    assert said(path) == [bye[:2], hello, bye, hello[:1]]
    path.write_text("")  # or took away
    two.keep(FIRST, NAMES)
    assert said(path) == [hello]


@pytest.mark.parametrize(
    "turns", [SECOND, SECOND[:1], [SECOND[0], Turn("see you", 1)]], ids=["more", "undone", "retried"]
)
def test_a_crash_leaves_older_conversations_and_most_of_this_one(
    turns: list[Turn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, states = tmp_path / "talk.jsonl", list[bytes]()
    Transcript(path).keep(FIRST, NAMES)
    transcript = Transcript(path)
    transcript.keep(SECOND[:2], NAMES)
    before = path.read_bytes()

    class Watched(Opened):
        def truncate(self, size: int) -> None:
            self.file.truncate(size)
            states.append(path.read_bytes())

        def write(self, data: bytes) -> int | None:
            done = self.file.write(data)
            states.append(path.read_bytes())
            return done

    Watched.instead_of_files(monkeypatch)
    transcript.keep(turns, NAMES)
    older = before.index(b"\n") + 1
    assert [state[:older] for state in states] == [before[:older]] * 2
    unfinished, whole = (state[older:] for state in states)
    assert before[older:].startswith(unfinished)
    assert whole.startswith(unfinished)
    assert b"bye" in unfinished
    assert [turn["text"] for turn in json.loads(whole)["turns"]] == [turn.text for turn in turns]


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


@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_the_file_as_it_was(again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.jsonl"
    Transcript(path).keep(FIRST, NAMES)
    transcript = Transcript(path)
    if again:
        transcript.keep(SECOND[:2], NAMES)
    before = path.read_bytes()

    class Full(Opened):
        """On a disk with room for ten bytes more."""

        def write(self, data: bytes) -> int | None:
            return self.file.write(data[: len(before) + 10 - path.stat().st_size])

    with monkeypatch.context() as patch:
        Full.instead_of_files(patch)
        with pytest.raises(OSError, match="No space left") as caught:
            transcript.keep(SECOND, NAMES)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    transcript.keep(SECOND, NAMES)  # there is room again
    assert said(path) == [[turn.text for turn in turns] for turns in (FIRST, SECOND)]


def test_ctrl_c_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.jsonl"
    transcript = Transcript(path)
    transcript.keep(SECOND[:2], NAMES)
    before = path.read_bytes()

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transcript.keep(SECOND, NAMES)
    assert path.read_bytes() == before
