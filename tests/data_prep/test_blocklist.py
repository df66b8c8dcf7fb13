"""The blocklist: whole words and phrases in any text, and what becomes of an item that has one."""

from pathlib import Path

import pytest

from data_prep import words
from data_prep.clean import Cleaner, Cleaning
from data_prep.rules import Blocklist
from data_prep.sources.chunk import Dropped
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "blocked"
    file.write_bytes("ass\n\nBad  Word\r\nC++\nstraße\nvery very bad\n".encode())
    return str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a classy bass", False),
        ("you ASS!", True),
        ("bad\nword", True),
        ("bad, word", False),
        ("bad words", False),
        ("in c++.", True),
        ("in c+ +", True),
        ("c plus", False),
        ("STRASSE", True),
        ("very very very bad", True),
        ("very bad", False),
        ("", False),
    ],
)
def test_blocklist_matches_whole_words(text: str, expected: bool, path: str) -> None:
    assert Blocklist(path).matches(text) == expected


def test_blocklist_finds_phrases_across_pieces(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocklist = Blocklist(path)
    monkeypatch.setattr(words, "PIECE_CHARS", 10)
    for before in range(40):
        assert blocklist.matches("x " * before + "very very bad" + " y" * 9)
        assert not blocklist.matches("x " * before + "very, very bad" + " y" * 9)


def test_blocklist_drops_or_takes_the_weight(path: str) -> None:
    item = Conversation((Turn("hi", 0), Turn("bad word", 1, 0.5), Turn("an ass", 0, 0.0), Turn("bye", 1, 0.3)))
    fine = Conversation.alternating(["hi", "bye"])
    dropping = Cleaner(Cleaning(blocklist=path))
    assert dropping.clean(item) == Dropped("clean: blocklist", "bad word")
    assert dropping.clean("an ass") == Dropped("clean: blocklist", "an ass")
    assert dropping.clean(fine) is fine

    weighing = Cleaner(Cleaning(blocklist=path, blocklist_action="weight0"))
    assert weighing.clean(fine) is fine
    assert weighing.clean(item) == Conversation(
        (Turn("hi", 0), Turn("bad word", 1, 0.0), Turn("an ass", 0, 0.0), Turn("bye", 1, 0.3))
    )
    assert weighing.counts == {"turns with weight 0 by blocklist": 1}
    silent = Conversation((Turn("ass", 0, 0.0), fine.turns[1]))
    assert weighing.clean(silent) is silent
    assert weighing.clean("a document") == "a document"
    with pytest.raises(UserError, match=r"blocklist_action is weight0, but documents have no weights"):
        weighing.clean("a bad word")


def test_a_wrong_blocklist_is_named(tmp_path: Path) -> None:
    for content, message in ((b"one\ntwo\xff\n", r"blocked:2: byte 0xff is not UTF-8"), (b" \n\n", "holds no word")):
        (tmp_path / "blocked").write_bytes(content)
        with pytest.raises(UserError, match=message):
            Cleaner(Cleaning(blocklist=str(tmp_path / "blocked")))
    absent = Cleaning(blocklist=str(tmp_path / "absent"))
    for use in (lambda: Cleaner(absent), absent.fingerprint):
        with pytest.raises(UserError, match=r"--clean\.blocklist .*absent: No such file"):
            use()
