"""Paths through trees of comments, of any form: against a naive recursion, and with cycles."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources.reddit_filters import RedditFilters
from data_prep.sources.reddit_paths import Tally, conversations


@st.composite
def forests(draw: st.DrawFn) -> list[tuple[str, str, str, str]]:
    """Rows in any order whose parents are earlier ones, or the submission, or missing."""
    count = draw(st.integers(1, 25))
    parents = [draw(st.integers(-2, number - 1)) for number in range(count)]
    name = {-1: "t3_s", -2: "t1_missing"} | {number: f"t1_{number}" for number in range(count)}
    rows = [("t3_s", name[number], name[parents[number]], str(number)) for number in range(count)]
    return draw(st.permutations(rows))


def naive_paths(rows: list[tuple[str, str, str, str]], above: list[str], name: str) -> list[list[str]]:
    """Every path below `name`, by recursion over all rows."""
    found = []
    for _, child, parent, text in rows:
        if parent == name:
            found += naive_paths(rows, [*above, text], child) or [[*above, text]]
    return found


@settings(max_examples=200, deadline=None)
@given(forests(), st.integers(1, 4), st.integers(0, 5))
def test_random_trees_give_the_paths_of_a_naive_recursion(
    rows: list[tuple[str, str, str, str]], min_depth: int, more: int
) -> None:
    max_depth = min_depth + more
    filters = RedditFilters(min_depth=min_depth, max_depth=max_depth)
    paths = naive_paths(rows, [], "t3_s") + naive_paths(rows, [], "t1_missing")
    tally = Tally()
    found = [[turn.text for turn in conversation.turns] for conversation in conversations(rows, filters, tally)]
    assert sorted(found) == sorted(path[-max_depth:] for path in paths if len(path) >= min_depth)
    counts = {dropped.reason: dropped.count for dropped in tally.dropped()}
    assert counts.get(f"path of under {min_depth} turns", 0) == sum(len(path) < min_depth for path in paths)
    in_paths = {text for path in paths for text in path[-max_depth:]}
    assert counts.get(f"turn above the last {max_depth} of every path", 0) == len(rows) - len(in_paths)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-1, 12), min_size=1, max_size=12))
def test_any_graph_of_replies_ends_with_every_comment_accounted_for(parents: list[int]) -> None:
    rows = [("t3_s", f"t1_{number}", f"t1_{parent}", str(number)) for number, parent in enumerate(parents)]
    tally = Tally()
    found = list(conversations(rows, RedditFilters(min_depth=1, max_depth=0), tally))
    seen = {turn.text for conversation in found for turn in conversation.turns}

    def rootless(number: int, steps: int = 0) -> bool:
        return 0 <= number < len(parents) and (steps > len(parents) or rootless(parents[number], steps + 1))

    lost = {str(number) for number in range(len(parents)) if rootless(number)}
    assert seen == {str(number) for number in range(len(parents))} - lost
    assert sum(dropped.count for dropped in tally.dropped()) == len(lost)
