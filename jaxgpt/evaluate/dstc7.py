"""Test sets and replies in the files of DSTC-7's task 2 and of DialoGPT.

Source: `dstc.py` in evaluation/src of mgalley/DSTC7-End-to-End-Conversation-Modeling and its data_extraction/README;
`dstc/` and reddit_extractor/src/create-multiref.py of microsoft/DialoGPT.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.data.atomic import write_text
from jaxgpt.data.dialogue import Turn
from jaxgpt.errors import UserError
from jaxgpt.evaluate.examples import Example, before_reply, example, read_lines

_KEY = re.compile(r"[0-9a-f]{56}")  # SHA-224
_SCORED = re.compile(r"-?\d+\|")
_COLUMNS, _CONTEXT = 7, 5  # key, subreddit, conversation, score, turn, context, response
_MOST, _HUMAN = 6, 1  # references that dstc.py asks for by default, and the one that it replaces by its successor


@dataclass(frozen=True)
class ReferenceSet:
    """first_columns: what stands before a reply in a file of seven columns, the key first; None without keys."""

    examples: list[Example]
    first_columns: list[tuple[str, ...]] | None

    @property
    def keys(self) -> list[str] | None:
        return None if self.first_columns is None else [columns[0] for columns in self.first_columns]

    def first(self, number: int | None) -> "ReferenceSet":
        """So many of them; None means all."""
        return ReferenceSet(self.examples[:number], self.first_columns[:number] if self.first_columns else None)


def read_references(file: str, convos: str | None = None, keys: str | None = None) -> ReferenceSet:
    """A file of references: `KEY or CONTEXT <tab> SCORE|REPLY <tab> …`, the scores may be missing.

    With keys it is DSTC-7's test.refs, its contexts stand in `convos` (test.convos.txt, seven columns) and without that
    file the examples have none; the references are repeated to six as dstc.py does, because NIST counts them all.
    Otherwise it is DialoGPT's test.refs.txt or test.scored_refs.txt, whose contexts are in the file, each turn but the
    last followed by EOS. keys: a file of those to keep, in that order. UserError says which line lacks what, and which
    has a key or a score where others have none.
    """
    rows = [(number, line.split("\t")) for number, line in enumerate(read_lines(file), 1)]
    if not rows:
        raise UserError(f"{file} has no line; give a file of references")
    if not (_have_keys(file, rows) or convos or keys):
        examples = [example(_context(row[0], f"{file}:{n}"), _references(row, f"{file}:{n}")) for n, row in rows]
        return ReferenceSet(examples, None)
    lines = _by_key(file, rows)
    wanted = list(lines) if keys is None else read_lines(keys)
    for number, key in enumerate(wanted, 1):
        if key not in lines:
            raise UserError(f"{keys}:{number}: {file} has no reference for the key {key}; add its line or drop the key")
    before = _read_seven(convos) if convos else {key: [key, *["-"] * (_COLUMNS - 1)] for key in wanted}
    examples = []
    for key in wanted:
        number, row = lines[key]
        if key not in before:
            raise UserError(f"{file}:{number}: {convos} has no line with the key {key}; give the files of one data set")
        context = _context(before[key][_CONTEXT], f"{convos}, key {key}") if convos else ()
        references = _references(row, f"{file}:{number}")
        examples.append(Example(context, _as_scored(references), *references[_HUMAN : _HUMAN + 1]))
    return ReferenceSet(examples, [tuple(before[key][:-1]) for key in wanted])


def read_hypotheses(file: str, reference_set: ReferenceSet) -> list[str]:
    """A reply to each example: one a line in their order, or the last of seven columns behind its key in any order.

    Lines with other keys are left out. UserError where one is missing, or a line has another number of columns.
    """
    lines, keys = read_lines(file), reference_set.keys
    if keys is not None and lines and "\t" in lines[0]:
        replies = {key: row[-1] for key, row in _read_seven(file).items()}
        missing = [key for key in keys if key not in replies]
        if missing:
            raise UserError(
                f"{file} has no reply with the key {missing[0]}: there are {len(replies)} replies, and {len(keys)} "
                "examples with references; give a reply to each"
            )
        return [replies[key] for key in keys]
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            raise UserError(
                f"{file}:{number}: there are {line.count(chr(9)) + 1} columns; a line is one reply"
                + ("" if keys is None else f", or each line has {_COLUMNS} columns")
            )
    if len(lines) != len(reference_set.examples):
        raise UserError(
            f"{file} has {len(lines)} replies, but there are {len(reference_set.examples)} examples with references; "
            "give one reply to each"
        )
    return lines


def as_line(reply: str) -> str:
    """A reply as files have it: white space within it becomes a space."""
    return " ".join(reply.split())


def write_hypotheses(file: Path, lines: Sequence[str], first_columns: Sequence[tuple[str, ...]] | None = None) -> None:
    """One reply a line (`as_line`), as DialoGPT's dstc.py reads them, or behind its first columns, as DSTC-7's does."""
    if first_columns is not None:
        lines = ["\t".join((*columns, line)) for columns, line in zip(first_columns, lines, strict=True)]
    write_text(file, "".join(f"{line}\n" for line in lines))


def _context(text: str, where: str) -> tuple[Turn, ...]:
    turns = [turn.strip() for turn in re.split(r"(?<!\S)EOS(?!\S)", text)]
    turns = [turn for turn in turns if turn and turn != "START"]
    if not turns:
        raise UserError(f"{where}: the context {text!r:.60} has no turn; give one, or leave the line out")
    return before_reply(turns)


def _have_keys(file: str, rows: list[tuple[int, list[str]]]) -> bool:
    """Whether the lines begin with keys. UserError names the first of the fewer lines where only some do."""
    have_key = [_KEY.fullmatch(row[0]) is not None for _, row in rows]
    n = sum(have_key)
    if n in (0, len(rows)):
        return n > 0
    odd = 2 * n < len(rows)
    number, row = rows[have_key.index(odd)]
    raise UserError(
        f"{file}:{number}: the line begins with {row[0]!r:.60}, which is {'a' if odd else 'no'} key of 56 hex digits, "
        f"and {n} of {len(rows)} lines begin with one; mend the line or leave it out"
    )


def _references(row: list[str], where: str) -> list[str]:
    cells = [cell for cell in row[1:] if cell.strip()]
    without_score = [cell for cell in cells if not _SCORED.match(cell)]
    if 0 < len(without_score) < len(cells):
        raise UserError(
            f"{where}: {len(cells) - len(without_score)} of {len(cells)} references begin with a score, as in 12|text, "
            f"and {without_score[0]!r:.60} does not; give each of the line a score, or none"
        )
    if not without_score:
        cells = [cell.partition("|")[2] for cell in cells]
    found = [cell for cell in cells if cell.strip()]
    if not found:
        raise UserError(
            f"{where}: there is no reference, in {len(row)} columns; a line has a key or context, and behind tabs at "
            "least one reference"
        )
    return found


def _as_scored(references: list[str]) -> tuple[str, ...]:
    numbers = (n % len(references) for n in range(_MOST))
    return tuple(references[(n + 1) % len(references) if n == _HUMAN else n] for n in numbers)


def _by_key(file: str, rows: list[tuple[int, list[str]]]) -> dict[str, tuple[int, list[str]]]:
    """Number and columns of each key's line."""
    found = dict[str, tuple[int, list[str]]]()
    for number, row in rows:
        if row[0] in found:
            raise UserError(f"{file}:{number}: the key {row[0]} stands in line {found[row[0]][0]} already; drop one")
        found[row[0]] = number, row
    return found


def _read_seven(file: str) -> dict[str, list[str]]:
    """Key -> the seven columns of its line."""
    rows = [(number, line.split("\t")) for number, line in enumerate(read_lines(file), 1)]
    for number, row in rows:
        if len(row) != _COLUMNS:
            raise UserError(
                f"{file}:{number}: there are {len(row)} columns; it must be {_COLUMNS}: key, subreddit, conversation, "
                "score, turn, context and response"
            )
    return {key: row for key, (_, row) in _by_key(file, rows).items()}
