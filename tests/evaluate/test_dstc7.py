"""Files of DSTC-7 and DialoGPT, written out here by hand as their scripts have them."""

from pathlib import Path

import pytest

from jaxgpt.data.dialogue import Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.dstc7 import ReferenceSet, as_line, read_hypotheses, read_references, write_hypotheses
from jaxgpt.evaluate.examples import Example

A, B, C = "a" * 56, "0b" * 28, "c" * 56
REFERENCES = [f"{B}\t5|b0\t3|b1 | and more\t-2|b2", f"{A}\t9|a0", f"{C}\t1|c0\t1|c1"]
CONVOS = [
    f"{A}\ttil\tt3_1\t9\t2\tSTART EOS til this EOS is it so ?\t__UNDISCLOSED__",
    f"{C}\ttil\tt3_2\t1\t1\tonly this\t__UNDISCLOSED__",
    f"{B}\tpics\tt3_3\t5\t3\tlast words EOS SEOS is a word EOS yes\t__UNDISCLOSED__",
]


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def keyed(tmp_path: Path) -> ReferenceSet:
    return read_references(write(tmp_path / "test.refs", REFERENCES), write(tmp_path / "convos", CONVOS))


def test_references_with_keys(tmp_path: Path, keyed: ReferenceSet) -> None:
    """dstc.py fills six columns, n with reference n modulo their number, and for reference 1 takes the one behind."""
    assert keyed.keys == [B, A, C]
    assert keyed.examples == [
        Example(
            (Turn("last words", 0), Turn("SEOS is a word", 1), Turn("yes", 0)),
            ("b0", "b2", "b2", "b0", "b2", "b2"),
            "b1 | and more",
        ),
        Example((Turn("til this", 1), Turn("is it so ?", 0)), ("a0",) * 6),
        Example((Turn("only this", 0),), ("c0",) * 6, "c1"),
    ]
    # Without the conversations there is nothing that a model could answer.
    alone = read_references(str(tmp_path / "test.refs"))
    assert [one.context for one in alone.examples] == [()] * 3
    assert [one.references for one in alone.examples] == [one.references for one in keyed.examples]
    seven = read_references(write(tmp_path / "seven", [f"{A}\t" + "\t".join(f"{n}|r{n}" for n in range(8))]))
    assert seven.examples[0].references == ("r0", "r2", "r2", "r3", "r4", "r5")


def test_keys_choose(tmp_path: Path, keyed: ReferenceSet) -> None:
    keys = write(tmp_path / "keys", [C, B])
    chosen = read_references(str(tmp_path / "test.refs"), str(tmp_path / "convos"), keys)
    assert chosen.keys == [C, B]
    assert chosen.examples == [keyed.examples[2], keyed.examples[0]]
    assert chosen.first(1) == ReferenceSet(keyed.examples[2:], chosen.first_columns and chosen.first_columns[:1])
    with pytest.raises(UserError, match=rf"keys:2: .*test\.refs has no reference for the key {'d' * 56}"):
        read_references(str(tmp_path / "test.refs"), None, write(tmp_path / "keys", [C, "d" * 56]))


@pytest.mark.parametrize("scored", [True, False])
def test_references_with_contexts(tmp_path: Path, scored: bool) -> None:
    """As create-multiref.py of DialoGPT writes them, and without scores as its Makefile leaves them."""
    lines = ["so EOS what now ?\t12|one\t3|two\t1|three", "hello\t0|10|4 , that is"]
    if not scored:
        lines = ["so EOS what now ?\tone\ttwo\tthree", "hello\tno |score"]
    found = read_references(write(tmp_path / "refs", lines))
    assert found.keys is None
    assert found.examples == [
        Example((Turn("so", 1), Turn("what now ?", 0)), ("one", "three"), "two"),
        Example((Turn("hello", 0),), ("10|4 , that is" if scored else "no |score",)),
    ]


def test_hypotheses_there_and_back(tmp_path: Path, keyed: ReferenceSet) -> None:
    replies = [as_line(reply) for reply in ("to b\n again", "", "\u2028to\tc ")]
    write_hypotheses(tmp_path / "plain", replies)
    assert (tmp_path / "plain").read_text() == "to b again\n\nto c\n"
    write_hypotheses(tmp_path / "seven", replies, keyed.first_columns)
    assert (tmp_path / "seven").read_text().split("\n")[1] == CONVOS[0].replace("__UNDISCLOSED__", "")
    for name in ("plain", "seven"):
        assert read_hypotheses(str(tmp_path / name), keyed) == ["to b again", "", "to c"]
    # By key the order doesn't matter, and there may be more.
    lines = [f"{key}\t-\t-\t-\t-\t-\t{key[:2]}" for key in ("d" * 56, C, A, B)]
    assert read_hypotheses(write(tmp_path / "any", lines), keyed) == ["0b", "aa", "cc"]
    alone = read_references(str(tmp_path / "test.refs"))
    write_hypotheses(tmp_path / "dashes", replies, alone.first_columns)
    assert (tmp_path / "dashes").read_text().startswith(f"{B}\t-\t-\t-\t-\t-\tto b again\n")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["x\ty", "z"], r"refs:2: there is no reference, in 1 columns"),
        (["x\ty", "z\t3|\t "], r"refs:2: there is no reference, in 3 columns"),
        (["x\ty", "START EOS \ty"], r"refs:2: the context 'START EOS ' has no turn"),
        ([f"{A}\t1|x", B], r"refs:2: there is no reference, in 1 columns"),
        ([f"{A}\t1|x", f"{B}\t1|x", f"{A}\t1|y"], r"refs:3: the key a+ stands in line 1 already"),
        ([], r"refs has no line"),
        (
            [f"{A}\tx", "so what\tx", f"{C}\tx", "and\ty"],
            r"refs:2: .* 'so what', which is no key of 56 hex digits, and 2 of 4 lines begin with one; mend the line",
        ),
        (["x\ty", "so\tx", f"{A}\tx"], r"refs:3: .* 'a{56}', which is a key of 56 hex digits, and 1 of 3 lines"),
        (
            ["x\t1|y", "z\t12|one\ttwo\t3|four"],
            r"refs:2: 2 of 3 references begin with a score, as in 12\|text, and 'two' does not; give each .* or none",
        ),
        ([f"{A}\t1|x\ty"], r"refs:1: 1 of 2 references begin with a score, .* and 'y' does not"),
    ],
)
def test_bad_references_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_references(write(tmp_path / "refs", lines))


def test_bad_conversations_are_named(tmp_path: Path) -> None:
    references = write(tmp_path / "refs", REFERENCES)
    with pytest.raises(UserError, match=r"convos:2: there are 5 columns; it must be 7: key, subreddit"):
        read_references(references, write(tmp_path / "convos", [CONVOS[0], f"{C}\ttil\tt3_2\tonly this\tx"]))
    with pytest.raises(
        UserError, match=r"refs:3: .*convos has no line with the key c+; give the files of one data set"
    ):
        read_references(references, write(tmp_path / "convos", [CONVOS[0], CONVOS[2]]))
    with pytest.raises(UserError, match=r"convos, key a+: the context 'START' has no turn"):
        read_references(references, write(tmp_path / "convos", [f"{A}\t-\t-\t-\t-\tSTART\tx", *CONVOS[1:]]))
    with pytest.raises(UserError, match=r"refs:4: the line begins with 'what\?', which is no key of 56 hex digits"):
        read_references(write(tmp_path / "refs", [*REFERENCES, "what?\tx"]), write(tmp_path / "convos", CONVOS))


def test_bad_hypotheses_are_named(tmp_path: Path, keyed: ReferenceSet) -> None:
    file = tmp_path / "hyp"
    with pytest.raises(UserError, match=r"hyp has 2 replies, but there are 3 examples with references"):
        read_hypotheses(write(file, ["x", "y"]), keyed)
    with pytest.raises(UserError, match=r"hyp:2: there are 2 columns; a line is one reply, or each line has 7 columns"):
        read_hypotheses(write(file, ["x", "y\tz", "w"]), keyed)
    with pytest.raises(UserError, match=r"hyp:2: there are 2 columns; it must be 7"):
        read_hypotheses(write(file, [f"{A}\t-\t-\t-\t-\t-\tx", "y\tz"]), keyed)
    with pytest.raises(UserError, match=rf"hyp has no reply with the key {B}: there are 2 replies, and 3 examples"):
        read_hypotheses(write(file, [f"{key}\t-\t-\t-\t-\t-\tx" for key in (A, C)]), keyed)
    plain = ReferenceSet(keyed.examples, None)
    with pytest.raises(UserError, match=r"hyp:1: there are 7 columns; a line is one reply$"):
        read_hypotheses(write(file, [f"{A}\t-\t-\t-\t-\t-\tx"]), plain)
