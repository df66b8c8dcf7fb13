"""The paths of a submission's tree of comments, from a root down to each leaf."""

from collections.abc import Iterator, Sequence

from data_prep.sources.chunk import Dropped
from data_prep.sources.reddit_filters import RedditFilters
from jaxgpt.data.dialogue import Conversation

# How full names begin: Reddit writes them in link_id and parent_id.
COMMENT, SUBMISSION = "t1_", "t3_"
Row = Sequence[str]  # the submission's full name, the turn's own, that of what it replies to, its text


class Tally:
    """What was left out: how often for each reason, and what the first one looked like."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, reason: str, name: str, text: str, count: int = 1) -> None:
        if reason not in self._counts:
            self._counts[reason] = 0
            self._examples[reason] = f"{name}: {text[:80]}"
        self._counts[reason] += count

    def dropped(self) -> list[Dropped]:
        return [Dropped(reason, self._examples[reason], count) for reason, count in self._counts.items()]


def conversations(rows: Sequence[Row], filters: RedditFilters, tally: Tally) -> Iterator[Conversation]:
    """The paths to all leaves of one submission's turns, depth first, siblings in the order of `rows`.

    A leaf is a turn without a reply among `rows`, a root is one that replies to nothing among them. Turns that reply to
    themselves, or below themselves, have no root; they are counted like all else that stands in no path.
    """
    turns: dict[str, Row] = {}
    for row in rows:
        if row[1] in turns:
            tally.add("comment or submission with the id of an earlier one", row[1], row[3])
        else:
            turns[row[1]] = row
    roots: list[Row] = []
    replies: dict[str, list[Row]] = {}
    for row in turns.values():
        if row[2] in turns:
            replies.setdefault(row[2], []).append(row)
        else:
            roots.append(row)

    reached = 0
    in_paths: set[str] = set()
    for root in roots:
        stack = [root]
        while stack:
            row = stack.pop()
            reached += 1
            if below := replies.get(row[1]):
                stack += reversed(below)
                continue
            path = _path(row, turns, filters.max_depth)
            in_paths.update(turn[1] for turn in path)
            if fault := _fault(root, path, filters):
                tally.add(fault, row[1], row[3])
            else:
                yield Conversation.alternating([turn[3] for turn in path])

    if above := reached - len(in_paths):
        tally.add(f"turn above the last {filters.max_depth} of every path", rows[0][0], "in this submission", above)
    if rootless := len(turns) - reached:
        tally.add("comment that replies to itself or below itself", rows[0][0], "in this submission", rootless)


def _path(leaf: Row, turns: dict[str, Row], max_depth: int) -> list[Row]:
    """The turns that lead to a leaf below a root, the last `max_depth` of them unless that is 0."""
    path = [leaf]
    while len(path) != max_depth and (parent := turns.get(path[-1][2])):
        path.append(parent)
    return path[::-1]


def _fault(root: Row, path: list[Row], filters: RedditFilters) -> str | None:
    if filters.from_root and not (root[1].startswith(SUBMISSION) or root[2].startswith(SUBMISSION)):
        return "path that begins below a comment that is missing or failed"
    if len(path) < filters.min_depth:
        return f"path of under {filters.min_depth} turns"
    if 0 < filters.max_path_words < sum(len(turn[3].split()) for turn in path):
        return f"path of over {filters.max_path_words} words"
    return None
