"""Cleaning: every rule by hand on a text that passes and one that does not, and against other ways to count."""

import hashlib
import pickle
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest
from jsonargparse import ArgumentParser

from data_prep import rules, words
from data_prep.clean import Cleaner, Cleaning
from data_prep.rules import capitals, count_words, has_repeated_word, long_word, repeated_share
from data_prep.sources.chunk import Dropped
from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError

ROOT = Path(__file__).parent.parent.parent


def real_lines() -> list[str]:
    path = ROOT.parent / "shared" / "data" / "dialogpt" / "human.ref.6k.txt"
    if not path.is_file():
        pytest.skip("shared/data/dialogpt is absent")
    return path.read_text(encoding="utf-8").splitlines()


def talk(*texts: str) -> Conversation:
    return Conversation.alternating(texts)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


TEXT_RULES: list[tuple[dict[str, Any], str, str]] = [
    ({"min_chars": 5}, "12345", "1234"),
    ({"max_chars": 5}, "12345", "123456"),
    ({"min_words": 3}, "one  two\nthree", "one two-three"),
    ({"max_words": 3}, "one two three", "one two three four"),
    ({"no_urls": True}, "awww. so 1: //2", "see ftp://x.org"),
    ({"no_urls": True}, "http is a protocol: www", "see WWW.example.org"),
    ({"no_brackets": True}, "a {b} <c>", "a (b"),
    ({"no_brackets": True}, "none", "removed]"),
    ({"no_allcaps": 5}, "NASA and ÄÖÜÄÖÜ and A-B-C-D-E", "it is oHELLOo"),
    ({"no_allcaps": 2}, "I Am", "OK"),
    ({"no_repeated_words": True}, "no no, no no yes no", "well no no  no"),
    ({"no_repeated_words": True}, "a ab abc aab aab ab", "ha ha\nha ha"),
    ({"no_repeated_words": True}, "that that thatch", "that that that"),
    ({"max_word_chars": 4}, "four for, aé", "fours"),
    ({"max_word_chars": 4}, "", "a b-c-d"),
    # 1 of 5 four-grams stood before: x y z w, y z w x, z w x y, w x y z, x y z w.
    ({"max_repeated_ngrams": 0.2}, "x y z w x y z w", "x y z w x y z w x"),
    ({"max_repeated_ngrams": 0.0}, "x y z w x y z", "x y z w X, Y: z w"),
    ({"max_repeated_ngrams": 0.5, "ngram": 1}, "a a b b", "a a a b b"),
]


@pytest.mark.parametrize(("options", "good", "bad"), TEXT_RULES, ids=lambda value: str(value)[:30])
def test_a_rule_keeps_and_drops(options: dict[str, Any], good: str, bad: str) -> None:
    cleaner = Cleaner(Cleaning(**options))
    name = next(iter(options))
    assert cleaner.clean(good) is good
    assert cleaner.clean(bad) == Dropped(f"clean: {name}", bad)
    whole = talk(good)
    assert cleaner.clean(whole) is whole
    assert cleaner.clean(talk(bad)) == Dropped(f"clean: {name}", bad)


@pytest.mark.parametrize(("options", "good", "bad"), TEXT_RULES[4:15], ids=lambda value: str(value)[:30])
def test_one_turn_drops_its_conversation(options: dict[str, Any], good: str, bad: str) -> None:
    cleaner = Cleaner(Cleaning(**options))
    assert cleaner.clean(talk(good, good, bad, good)) == Dropped(f"clean: {next(iter(options))}", bad)


def test_bounds_of_items_count_all_turns_and_bounds_of_turns_count_each() -> None:
    cleaner = Cleaner(Cleaning(min_words=4, max_words=6))
    kept = talk("one two", "three", "four")
    assert cleaner.clean(kept) is kept
    assert cleaner.clean(talk("one two", "three")) == Dropped("clean: min_words", "one two")
    assert cleaner.clean(talk("one two", "a b c d e")) == Dropped("clean: max_words", "one two")
    assert cleaner.clean(talk("one", *"abcde")) == talk("one", *"abcde")

    cleaner = Cleaner(Cleaning(min_chars=4, max_chars=6))
    assert cleaner.clean(talk("ab", "cd")) == talk("ab", "cd")
    assert cleaner.clean(talk("ab", "c")) == Dropped("clean: min_chars", "ab")
    assert cleaner.clean(talk("ab", "cdefg")) == Dropped("clean: max_chars", "ab")

    cleaner = Cleaner(Cleaning(min_turn_words=2, max_turn_words=3, max_turns=3))
    assert cleaner.clean(talk("a b", "a b c", "b c")) == talk("a b", "a b c", "b c")
    assert cleaner.clean(talk("a b", "a", "b c")) == Dropped("clean: min_turn_words", "a")
    assert cleaner.clean(talk("a b", "a b c d", "b c")) == Dropped("clean: max_turn_words", "a b c d")
    assert cleaner.clean(talk("a b", "b c", "c d", "d e")) == Dropped("clean: max_turns", "a b")
    assert cleaner.clean("word") == "word"  # a document among dialogue has no turns


def test_ngrams_do_not_cross_turns_but_are_counted_over_all_of_them() -> None:
    cleaner = Cleaner(Cleaning(max_repeated_ngrams=0.0, ngram=3))
    assert cleaner.clean(talk("a b", "c a b", "c")) == talk("a b", "c a b", "c")
    assert cleaner.clean(talk("a b c", "no", "A b c!")) == Dropped("clean: max_repeated_ngrams", "a b c")


def test_repeated_share_and_word_rules_agree_with_other_ways_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = real_lines()
    texts = [" ".join(lines[at : at + size]) for at in range(0, 6000, 151) for size in (1, 5, 150)]
    texts += [text.replace(" the ", " the the the ") for text in texts]
    shares = []
    for text in texts:
        found = re.findall(r"\w+", text.lower())
        counts = Counter(" ".join(found[at : at + 2]) for at in range(len(found) - 1))
        shares.append(sum(count - 1 for count in counts.values()) / max(sum(counts.values()), 1))
        split = text.split()
        assert has_repeated_word(text) == any(
            split[at] == split[at - 1] == split[at - 2] for at in range(2, len(split))
        )
        assert bool(long_word(11)(text)) == any(len(word) > 11 for word in split)
        assert bool(capitals(2)(text)) == any(a.isupper() and b.isupper() for a, b in pairwise(text))
    assert 0.0 in shares
    assert max(shares) > 0.2
    assert [repeated_share([text], 2) for text in texts] == pytest.approx(shares)
    # Long texts go another way, in pieces.
    monkeypatch.setattr(rules, "PIECE_CHARS", 3)
    monkeypatch.setattr(words, "PIECE_CHARS", 101)
    assert [repeated_share([text], 2) for text in texts] == pytest.approx(shares)
    assert [count_words(text) for text in texts] == [len(text.split()) for text in texts]
    assert repeated_share(["a b c", "a b"], 2) == pytest.approx(1 / 3)
    assert repeated_share(["a b", "c d"], 3) == 0.0


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("schÃ¶n", "schön"),
        ("l’humanitÃ©", "l’humanité"),
        ("âœ” No problems", "✔ No problems"),
        ("donâ€™t", "don’t"),
        ("a &lt; b &amp; c&hellip;", "a < b & c…"),
        ("ﬂuﬃer", "fluffier"),
        ("cafe\u0301", "caf\u00e9"),
        ("\x1b[36;44mblue\x1b[0m\x00", "blue"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
    ],
)
def test_unicode_is_repaired(broken: str, whole: str) -> None:
    cleaner = Cleaner(Cleaning(fix_unicode=True))
    text = f"plain line\n{broken}\n"
    assert cleaner.clean(text) == f"plain line\n{whole}\n"
    assert cleaner.counts == {"unicode repaired": 1}
    weighted = Conversation((Turn("fine", 0, 0.5), Turn(broken, 1, 0.25)))
    assert cleaner.clean(weighted) == Conversation((Turn("fine", 0, 0.5), Turn(whole, 1, 0.25)))
    assert cleaner.counts == {"unicode repaired": 2}


def test_sound_text_is_left_as_it_is() -> None:
    cleaner = Cleaner(Cleaning(fix_unicode=True))
    sound = ["“curly”, it’s", "ＦＵＬＬ　ｗｉｄｔｈ！", "naïve 日本語 😀", "a\tb\fc\n\nd  e", "<p>x &amp; y</p>"]
    for text in sound:
        assert cleaner.clean(text) is text
    whole = talk(*sound)
    assert cleaner.clean(whole) is whole
    assert not +cleaner.counts


def test_repair_by_lines_is_ftfys_repair_of_the_whole() -> None:
    rng = np.random.default_rng(6)
    alphabet = [*map(chr, range(128)), *"é“”ﬁ…Ã¶â€™\x85\u2028😀\u0301", "\r\n", "\n", "\n", "&eacute;", "word "]
    config = ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False)
    cleaner = Cleaner(Cleaning(fix_unicode=True))
    for _ in range(1000):
        text = "".join(alphabet[at] for at in rng.integers(0, len(alphabet), 40)).replace("<", "")
        expected = ftfy.fix_text(f"x{text}", config)
        assert cleaner.clean(f"x{text}") == expected


def test_repair_that_leaves_no_text_drops_the_item() -> None:
    cleaner = Cleaner(Cleaning(fix_unicode=True))
    assert cleaner.clean("\x00\x01") == Dropped("clean: fix_unicode", "'\\x00\\x01'")
    assert cleaner.clean(talk("hi", "\x01")) == Dropped("clean: fix_unicode", "'\\x01'")


def test_repair_comes_before_the_rules() -> None:
    cleaner = Cleaner(Cleaning(fix_unicode=True, max_chars=5))
    assert cleaner.clean("schÃ¶n") == "schön"


def test_options_that_need_turns_are_refused_for_documents() -> None:
    weights = Cleaning(blocklist="x", blocklist_action="weight0")
    weights.check_sources(["dialogue"])
    with pytest.raises(UserError, match=r"--clean\.blocklist_action is weight0"):
        weights.check_sources(["documents"])
    with pytest.raises(UserError, match=r"--clean\.blocklist_action is weight0"):
        weights.check_sources(["dialogue", "documents"])
    turns = Cleaning(max_turns=5)
    turns.check_sources(["dialogue", "documents"])
    with pytest.raises(UserError, match=r"--clean\.max_turns is 5.*documents.*max_words"):
        turns.check_sources(["documents"])
    Cleaning(max_words=5, blocklist="x").check_sources(["documents"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_words": -1}, r"--clean\.min_words is -1; it must be 0 \(off\) or more"),
        ({"no_allcaps": -5}, r"--clean\.no_allcaps is -5"),
        ({"min_turn_words": 4, "max_turn_words": 3}, r"--clean\.min_turn_words 4 is above --clean\.max_turn_words 3"),
        ({"max_turns": 1}, r"--clean\.max_turns is 1"),
        ({"ngram": 0}, r"--clean\.ngram is 0; it must lie in \[1, 64\]"),
        ({"max_repeated_ngrams": 1.5}, r"--clean\.max_repeated_ngrams is 1\.5"),
        ({"near_threshold": 0.99}, r"--clean\.near_threshold is 0\.99; it must lie in \[0\.5, 0\.95\]"),
        ({"near_threshold": float("nan")}, r"--clean\.near_threshold is nan"),
    ],
)
def test_values_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cleaning(**options)


def test_nothing_is_on_by_default() -> None:
    cleaner = Cleaner(Cleaning())
    for item in ("", "x" * 99 + " SHOUTING no no no (http://x) Ã¶ \x00", talk("a"), talk(*"abc")):
        assert cleaner.clean(item) is item
    assert not cleaner.counts


def test_examples_are_short() -> None:
    dropped = Cleaner(Cleaning(max_words=1)).clean("word " * 1000)
    assert isinstance(dropped, Dropped)
    assert dropped.example == "word " * 40


def test_fingerprint_follows_the_blocklists_content(tmp_path: Path) -> None:
    one, same, other = (write(tmp_path / name, text) for name, text in (("1", "x"), ("2", "x"), ("3", "y")))
    found = Cleaning(blocklist=one, min_words=2).fingerprint()
    assert found["blocklist"] == hashlib.sha256(b"x").hexdigest()
    assert found["min_words"] == 2
    assert found == Cleaning(blocklist=same, min_words=2).fingerprint()
    assert found != Cleaning(blocklist=other, min_words=2).fingerprint()
    assert Cleaning(fix_unicode=True).fingerprint()["ftfy"] == ftfy.__version__


def test_options_travel_and_are_documented_on_the_command_line() -> None:
    cleaning = Cleaning(no_urls=True, near_threshold=0.7)
    assert pickle.loads(pickle.dumps(cleaning)) == cleaning
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Cleaning, "clean")
    values = parser.parse_args(["--clean.no_urls=true", "--clean.near_threshold=0.7", "--clean.duplicates=near"])
    assert parser.instantiate(values).clean == Cleaning(no_urls=True, near_threshold=0.7, duplicates="near")
    text = parser.format_help()
    for name in Cleaning.__dataclass_fields__:
        documented = re.search(rf"--clean\.{name} [^\n]*\n?\s+(\w[^(]*)", text)
        assert documented, name
        assert len(documented[1]) > 10, name
