"""Replies against people's: a conversation's examples, what is held out, and the table by the peer libraries."""

import gzip
import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nltk.translate.meteor_score import meteor_score
from nltk.translate.nist_score import corpus_nist
from sacrebleu.metrics import BLEU

from jaxgpt.data.dialogue import Conversation, Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.dialogue import evaluate_replies, table
from jaxgpt.evaluate.examples import Example, before_reply, example, examples_of, read_examples, read_lines
from jaxgpt.evaluate.reply_metrics import measure_replies

REAL = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "dialogpt" / "human.ref.6k.txt"
HELLO = (Turn("hello", 0),)
EXAMPLES = [
    Example(HELLO, ("hi there , you", "good day to you"), "hi you"),
    Example(HELLO, ("fine , thanks a lot",)),
    Example(HELLO, ("I like apples", "apples are nice"), "apples and pears are nice"),
]
SYSTEMS = {"a": ["hi there", "fine , thanks", "I like pears"], "b": ["no", "no", "apples are very nice"]}


class NoSynonyms:
    """WordNet, where every word is unknown."""

    def synsets(self, word: str) -> list[Any]:
        return []


def real_lines() -> list[str]:
    if not REAL.exists():
        pytest.skip("shared/data/dialogpt is absent")
    return REAL.read_text(encoding="utf-8").split("\n")[:-1]


def test_the_examples_of_conversations() -> None:
    talk = Conversation.alternating(["a", "b", "c", "d", "e"])
    own = Conversation((Turn("x", 1), Turn("y", 1), Turn(" ", 0), Turn("z", 0)))
    found = examples_of([talk, own])
    assert found == [
        Example(talk.turns[:1], ("b",)),
        Example(talk.turns[:3], ("d",)),
        Example(own.turns[:1], ("y",)),  # nothing was said before x
    ]
    assert examples_of([talk, own], last_only=True) == [found[1], found[2]]
    # The first turn answers nothing, and neither does one without text count.
    assert [one.references[0] for one in examples_of([talk, own], role=0)] == ["c", "e", "z"]
    assert examples_of([Conversation((Turn("alone", 1),))]) == []


def test_the_second_reference_is_held_out() -> None:
    assert example(HELLO, ["one"]) == Example(HELLO, ("one",), None)
    assert example(HELLO, ["one", "two"]) == Example(HELLO, ("one",), "two")
    assert example(HELLO, ["one", "two", "three"]) == Example(HELLO, ("one", "three"), "two")


def test_examples_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "references.jsonl"
    lines: list[Any] = [
        {"context": ["a", "b"], "references": ["c\u2028c", "d"]},
        {"context": ["a"], "references": ["b"]},
    ]
    file.write_bytes("\r\n".join([*(json.dumps(line, ensure_ascii=False) for line in lines), ""]).encode())
    assert read_examples(str(file)) == [
        Example((Turn("a", 1), Turn("b", 0)), ("c\u2028c",), "d"),
        Example((Turn("a", 0),), ("b",)),
    ]
    assert [turn.role for turn in before_reply(["a", "b", "c"])] == [0, 1, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"2: this is no JSON"),
        ("[]", r"2: this is \[\]; write \{\"context\""),
        ('{"context": "a", "references": ["b"]}', r'2: context is "a"; it must be a list of texts'),
        ('{"context": ["a"], "references": [1]}', r"2: references is \[1\]; it must be a list of texts"),
        ('{"context": ["a"]}', r"2: references is absent; it must be a list of texts"),
        ('{"context": ["a"], "references": []}', r"2: references has no text; give one, or leave the line out"),
        ('{"context": [" "], "references": ["b"]}', r"2: context has no text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"context": ["a"], "references": ["b"]}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"bad\.jsonl:{message}"):
        read_examples(str(file))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file 'nowhere'"):
        read_examples("nowhere")
    with pytest.raises(UserError, match=f"there is no file {str(tmp_path)!r}"):
        read_lines(str(tmp_path))
    (tmp_path / "latin").write_bytes(b'{"\xe9"}')
    with pytest.raises(UserError, match=r"latin is not UTF-8 \(byte 2\)"):
        read_examples(str(tmp_path / "latin"))


def test_lines_of_a_packed_file_and_of_one_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfone\r\n\ntwo")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\n\ntwo\n"))
    for name in ("marked", "packed.gz"):
        assert read_lines(str(tmp_path / name)) == ["one", "", "two"]


def test_rows_are_the_metrics_of_each_system() -> None:
    found = evaluate_replies(EXAMPLES, SYSTEMS, "none")
    references = [list(one.references) for one in EXAMPLES]
    assert list(found.rows) == ["human", "a", "b"]
    assert found.rows["a"] == measure_replies(SYSTEMS["a"], references, "none")
    assert found.rows["b"] == measure_replies(SYSTEMS["b"], references, "none")
    # Only the examples that have a human reply, without that reply among the references.
    people = measure_replies(["hi you", "apples and pears are nice"], [references[0], references[2]], "none")
    assert found.rows["human"] == people
    content = json.loads(json.dumps(found.as_json()))
    assert content["systems"]["human"]["replies"] == 2
    assert content["systems"]["a"]["bleu"][3] == found.rows["a"].bleu[3]
    alone = [Example(one.context, one.references) for one in EXAMPLES]
    assert list(evaluate_replies(alone, SYSTEMS).rows) == ["a", "b"]
    assert list(evaluate_replies(EXAMPLES, {}).rows) == ["human"]


def test_case_counts_unless_told_otherwise() -> None:
    shouting = {"a": [reply.upper() for reply in SYSTEMS["a"]]}
    plain = evaluate_replies(EXAMPLES, {"a": [reply.lower() for reply in SYSTEMS["a"]]}, lowercase=True)
    assert evaluate_replies(EXAMPLES, shouting, lowercase=True).rows == plain.rows
    assert evaluate_replies(EXAMPLES, shouting).rows["a"].bleu != plain.rows["a"].bleu


def test_the_table_by_hand() -> None:
    """One reply of three tokens, a b c, to a reference of four, a b c d."""
    head, line, row = table(evaluate_replies([Example((), ("a b c d",))], {"mine": ["a b c"]}, "none"))
    columns = ["NIST-2", "NIST-4", "BLEU-2", "BLEU-4", "METEOR", "ENT-4", "DIST-1", "DIST-2", "Avg. len", "Replies"]
    assert head == f"| System | {' | '.join(columns)} |"
    assert line.count("---") == 11
    brevity = math.exp(1 - 4 / 3)
    # A token of four different ones tells 2 bits; all that follow from the first, none.
    nist = 2 * math.exp(math.log(0.5) * (math.log(3 / 4) / math.log(1.5)) ** 2)
    recall = 3 / 4
    meteor = recall / (0.9 + 0.1 * recall) * (1 - 0.5 / 3**3)
    expected = [nist, nist, 100 * brevity, 100 * brevity, 100 * meteor, 0.0, 100, 100]
    assert row == f"| mine | {' | '.join(f'{value:.2f}' for value in expected)} | 3.0 | 1 |"


def test_what_can_not_be_measured() -> None:
    with pytest.raises(UserError, match="a has 2 replies, but there are 3 examples; give one reply to each"):
        evaluate_replies(EXAMPLES, {"a": ["x", "y"]})
    with pytest.raises(UserError, match="a system is called 'human'"):
        evaluate_replies(EXAMPLES, {"human": ["x", "y", "z"]})
    with pytest.raises(UserError, match="there are 0 examples, of them 0 with a human reply, and 2 systems"):
        evaluate_replies([], SYSTEMS)
    with pytest.raises(UserError, match="there are 1 examples, of them 0 with a human reply, and 0 systems"):
        evaluate_replies([EXAMPLES[1]], {})
    with pytest.raises(UserError, match="reply 2 of 2 has no reference with text in it"):
        evaluate_replies([EXAMPLES[1], Example(HELLO, (" ",))], {"a": ["x", "y"]})


def test_dialogpts_human_replies_by_sacrebleu_and_nltk() -> None:
    lines = real_lines()[:400]
    hypotheses, references = lines[:200], lines[200:]
    examples = [Example((), (reference,)) for reference in references]
    row = evaluate_replies(examples, {"x": hypotheses}, lowercase=True).rows["x"]
    low, low_references = ([text.lower() for text in texts] for texts in (hypotheses, references))
    for order in (2, 4):
        metric = BLEU(max_ngram_order=order, effective_order=True)
        assert row.bleu[order - 1] == pytest.approx(metric.corpus_score(low, [low_references]).score, rel=1e-9)
    split = BLEU().tokenizer
    tokens, of_references = ([split(text).split() for text in texts] for texts in (low, low_references))
    for order in (2, 4):
        expected = corpus_nist([[own] for own in of_references], tokens, order)
        assert row.nist_mteval[order - 1] == pytest.approx(expected, rel=1e-9)
    scores = [
        meteor_score([reference], hypothesis, wordnet=NoSynonyms())
        for reference, hypothesis in zip(of_references, tokens, strict=True)
    ]
    assert row.meteor_without_synonyms == pytest.approx(sum(scores) / 200, rel=1e-9)
    pairs = [pair for own in tokens for pair in pairwise(own)]
    assert row.distinct[1] == pytest.approx(len(set(pairs)) / len(pairs))
    fours = Counter(tuple(own[n : n + 4]) for own in tokens for n in range(len(own) - 3))
    shares = [count / fours.total() for count in fours.values()]
    assert row.entropy[3] == pytest.approx(-sum(share * math.log(share) for share in shares))


def test_dialogpts_human_row_as_published() -> None:
    """ENT-4 11, DIST-1 14.50 %, DIST-2 63.00 % and length 13.1 in the README of microsoft/DialoGPT."""
    lines = real_lines()
    (row,) = evaluate_replies([Example((), ("x",))] * len(lines), {"x": lines}, "none").rows.values()
    published = (row.entropy[3], 100 * row.distinct[0], 100 * row.distinct[1], row.average_length)
    assert published == pytest.approx((11.0, 14.50, 63.00, 13.1), rel=0.01)
