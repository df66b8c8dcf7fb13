"""Reddit's dumps: which paths come out, what each filter leaves out, and a partition that can be killed."""

import html
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import reddit as module
from data_prep.sources import reddit_filters as rules
from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.files import find_files
from data_prep.sources.reddit import Reddit
from data_prep.sources.reddit_filters import RedditFilters
from data_prep.sources.reddit_paths import Tally, conversations
from jaxgpt.errors import UserError


def comment(name: str, parent: str, body: str, link: str = "t3_s", **more: Any) -> dict[str, Any]:
    made = {"id": name, "parent_id": parent, "link_id": link, "body": body, "score": 3, "author": "ann"}
    return made | {"subreddit": "AskReddit", "created_utc": 1420070400, "gilded": 0, "edited": False} | more


def submission(name: str, title: str, **more: Any) -> dict[str, Any]:
    made = {"id": name, "title": title, "selftext": "", "score": 0, "author": "bob", "subreddit": "AskReddit"}
    return made | {"num_comments": 2, "url": "http://x.y", "created_utc": 1420070400} | more


def dump(path: Path, values: Iterable[dict[str, Any]]) -> Path:
    """A file as Reddit's dumps are: ASCII, packed with Zstandard where its name says so."""
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    path.write_bytes(zstd.compress(content) if path.suffix == ".zst" else content)
    return path


def source_of(tmp_path: Path, values: Iterable[dict[str, Any]], **filters: Any) -> Reddit:
    path = dump(tmp_path / "RC_2015-01", values)
    return Reddit("reddit:x", find_files("reddit:x", str(path)), str(tmp_path / "scratch"), RedditFilters(**filters))


def all_of(source: Reddit) -> tuple[list[list[str]], dict[str, int]]:
    """(texts of each conversation, counts by reason)"""
    paths: list[list[str]] = []
    counts: Counter[str] = Counter()
    for chunk in source.chunks(0, 1 << 20):
        for item in [chunk.data] if isinstance(chunk.data, Dropped) else source.read(chunk):
            if isinstance(item, Dropped):
                counts[item.reason] += item.count
            else:
                assert [turn.role for turn in item.turns] == [index % 2 for index in range(len(item.turns))]
                paths.append([turn.text for turn in item.turns])
    return paths, dict(counts)


# s: a - b - c        r: f - g
#      \ d                 \ (h fails)
#    e
TREES = [
    comment("a", "t3_s", "text of a"),
    comment("b", "t1_a", "text of b"),
    comment("f", "t3_r", "text of f", link="t3_r"),
    comment("c", "t1_b", "text of c"),
    comment("d", "t1_a", "text of d"),
    comment("e", "t3_s", "text of e"),
    comment("h", "t1_f", "text [of] h", link="t3_r"),
    comment("g", "t1_f", "text of g", link="t3_r"),
]
TITLES = [submission("s", "title of s"), submission("r", "title of r"), submission("q", "title of q")]


@pytest.mark.parametrize("ending", ["", ".zst"])
def test_paths_from_top_level_comments_and_from_titles(tmp_path: Path, ending: str) -> None:
    dump(tmp_path / f"RC_2015-01{ending}", TREES)
    dump(tmp_path / f"RS_2015-01{ending}", TITLES)
    files = find_files("reddit:x", str(tmp_path / "R?_*"))
    source = Reddit("reddit:x", files, str(tmp_path / "scratch"))
    a, b, c, d, e, f, g = (f"text of {name}" for name in "abcdefg")
    assert all_of(source) == (
        [[a, b, c], [a, d], [f, g]],
        {
            "comment with brackets": 1,
            "submission, because its title is no turn without titles": 3,
            "path of under 2 turns": 1,  # e
        },
    )
    with_titles = replace(source, filters=RedditFilters(titles=True))
    s, r = "title of s", "title of r"
    assert all_of(with_titles) == (
        [[s, a, b, c], [s, a, d], [s, e], [r, f, g]],
        {"comment with brackets": 1, "path of under 2 turns": 1},  # q has no comments
    )
    # Nothing was lost on the way to the second partition, and back.
    assert all_of(source)[0] == [[a, b, c], [a, d], [f, g]]


def test_titles_meet_the_filters_for_texts_and_are_asked_for_no_score(tmp_path: Path) -> None:
    values = [
        submission("s", "what (why)", score=9),
        submission("r", "fine title", score=-9, subreddit=None, author=None),
        comment("a", "t3_s", "text of a"),
        comment("b", "t1_a", "text of b"),
        comment("c", "t3_r", "text of c", link="t3_r"),
    ]
    paths, counts = all_of(source_of(tmp_path, values, titles=True, from_root=True))
    # The title of s is gone, so what is left of r comes first.
    assert paths == [["fine title", "text of c"], ["text of a", "text of b"]]
    assert counts == {"submission with brackets": 1}


LONG = " ".join(["word"] * 15 + ["again"] + ["word", "other"] * 7)
TURN_RULES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"body": "&gt; so they say\n\nno they do not"}, "with a quote (>)", {"drop_quotes": False}),
    ({"body": "this -> that"}, "with a quote (>)", {"drop_quotes": False}),
    (
        {"body": "[deleted]"},
        "that is deleted or removed",
        {"drop_deleted": False, "min_words": 0, "drop_brackets": False},
    ),
    ({"body": "[removed]"}, "that is deleted or removed", {"drop_deleted": False, "min_words": 1, "drop_brackets": 0}),
    ({"body": " Yes.\n"}, "of under 2 words", {"min_words": 1}),
    ({"body": "it is 3 words"}, "of over 3 words", {}),
    ({"body": "see https://x.y/z there"}, "with a URL", {"drop_urls": False}),
    ({"body": "see WWW.x.y there"}, "with a URL", {"drop_urls": False}),
    ({"body": "so (they) say"}, "with brackets", {"drop_brackets": False}),
    ({"body": "why so LOUDLY"}, "with 5 capitals in a row", {"capitals": 0}),
    ({"body": "why so LOUDLY"}, "with 5 capitals in a row", {"capitals": 7}),
    ({"body": "no no no"}, "with a word three times in a row", {"drop_repeats": False}),
    ({"body": "an " + "a" * 31}, "with a word of over 30 characters", {"max_word_chars": 0}),
    ({"body": "fine text", "score": 0}, "with a score under 1", {"min_score": 0}),
    ({"body": "fine text", "score": None}, "with a score under 1", {"min_score": None}),
    ({"body": "fine text", "score": -7}, "with a score under 1", {"min_score": None}),
]


@pytest.mark.parametrize(("turn", "why", "off"), TURN_RULES)
def test_each_filter_of_turns_counts_and_can_be_turned_off(
    tmp_path: Path, turn: dict[str, Any], why: str, off: dict[str, Any]
) -> None:
    values = [
        comment("a", "t3_s", "text a"),
        comment("b", "t1_a", **turn),
        comment("c", "t1_b", "text c"),
        comment("d", "t1_c", "text d"),
    ]
    on = {"max_turn_words": 3} if "words" in why and not off else {}
    # Its parent is a leaf now, too short for a path; its reply begins a path of its own.
    assert all_of(source_of(tmp_path, values, **on)) == (
        [["text c", "text d"]],
        {f"comment {why}": 1, "path of under 2 turns": 1},
    )
    body = html.unescape(turn["body"]).strip()
    assert all_of(source_of(tmp_path, values, **off)) == ([["text a", body, "text c", "text d"]], {})


def test_filters_of_origin(tmp_path: Path) -> None:
    values = [
        comment("a", "t3_s", "text a", author="AutoModerator"),
        comment("b", "t1_a", "text b", subreddit="news"),
        comment("c", "t1_b", "text c", author="RemindMeBot"),
        comment("d", "t1_c", "text d", author=None, subreddit=None),
    ]
    assert all_of(source_of(tmp_path, values)) == ([["text a", "text b", "text c", "text d"]], {})
    paths, counts = all_of(source_of(tmp_path, values, drop_bots=True, min_depth=1))
    assert (paths, counts) == ([["text b"], ["text d"]], {"comment by a bot": 2})
    paths, counts = all_of(source_of(tmp_path, values, subreddits=["askreddit"]))
    assert (paths, counts) == ([], {"comment of another subreddit": 2, "path of under 2 turns": 2})
    paths, counts = all_of(source_of(tmp_path, values, blocked_subreddits=["News"]))
    assert (paths, counts) == (
        [["text c", "text d"]],
        {"comment of a blocked subreddit": 1, "path of under 2 turns": 1},
    )


def test_filters_of_paths(tmp_path: Path) -> None:
    # A line of seven, with a reply to the third.
    values = [comment(str(i), f"t1_{i - 1}" if i else "t3_s", f"text {i}") for i in range(7)]
    values.append(comment("x", "t1_2", "text x"))
    chain = [f"text {i}" for i in range(7)]
    cut, whole = [chain[2:], [*chain[:3], "text x"]], [chain, [*chain[:3], "text x"]]
    assert all_of(source_of(tmp_path, values)) == (cut, {})
    assert all_of(source_of(tmp_path, values, max_depth=0)) == (whole, {})
    assert all_of(source_of(tmp_path, values, max_depth=0, min_depth=5)) == (whole[:1], {"path of under 5 turns": 1})
    # Two words a turn.
    assert all_of(source_of(tmp_path, values, max_depth=0, max_path_words=13)) == (
        whole[1:],
        {"path of over 13 words": 1},
    )
    assert all_of(source_of(tmp_path, values, max_path_words=10)) == (cut, {})
    # Turns 0 to 2 stand above the last three of the long path, turns 0 above those of the short one.
    paths, counts = all_of(source_of(tmp_path, values, max_depth=3))
    assert paths == [chain[4:], [*chain[1:3], "text x"]]
    assert counts == {"turn above the last 3 of every path": 2}  # 0 and 3


def test_parents_may_come_later_or_never(tmp_path: Path) -> None:
    values = [
        comment("c", "t1_b", "text c"),
        comment("z", "t1_nowhere", "text z"),
        comment("y", "t1_z", "text y"),
        comment("b", "t1_a", "text b"),
        comment("a", "t3_s", "text a"),
    ]
    paths, counts = all_of(source_of(tmp_path, values))
    assert (paths, counts) == ([["text z", "text y"], ["text a", "text b", "text c"]], {})
    paths, counts = all_of(source_of(tmp_path, values, from_root=True))
    assert paths == [["text a", "text b", "text c"]]
    assert counts == {"path that begins below a comment that is missing or failed": 1}


def test_cycles_end_and_are_counted_like_repeated_ids(tmp_path: Path) -> None:
    values = [
        comment("self", "t1_self", "text self"),
        comment("under", "t1_self", "text under"),
        comment("x", "t1_y", "text x"),
        comment("y", "t1_x", "text y"),
        comment("a", "t3_s", "text a"),
        comment("b", "t1_a", "text b"),
        comment("b", "t1_x", "other text"),
    ]
    assert all_of(source_of(tmp_path, values)) == (
        [["text a", "text b"]],
        {
            "comment that replies to itself or below itself": 4,
            "comment or submission with the id of an earlier one": 1,
        },
    )


def test_entities_of_html_and_unusual_characters_come_back(tmp_path: Path) -> None:
    texts = ['say "hi" \\ &amp; smile\n\n\ttwice', "ünï\u2028cödé 🙂 ,"]
    values = [comment("a,\n]", "t3_s", texts[0]), comment("b", "t1_a,\n]", texts[1])]
    paths, counts = all_of(source_of(tmp_path, values))
    assert (paths, counts) == ([['say "hi" \\ & smile\n\n\ttwice', texts[1]]], {})


def many(submissions: int = 60) -> list[dict[str, Any]]:
    values = []
    for number in range(submissions):
        link = f"t3_{number}"
        values += [comment(f"{number}a", link, f"text {number} a", link), comment(f"{number}x", link, "(no)", link)]
        values += [comment(f"{number}b", f"t1_{number}a", f"text {number} b", link)]
    return values


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many buckets of small inputs, some of several parts, and buffers that are written often."""
    for name, size in {"_WANTED_BYTES": 100, "_PART_BYTES": 150, "_BUFFER_BYTES": 500, "_READ_BYTES": 700}.items():
        monkeypatch.setattr(module, name, size)


@pytest.mark.usefixtures("small")
def test_chunks_are_the_same_from_anywhere_and_give_everything_once(tmp_path: Path) -> None:
    source = source_of(tmp_path, many())
    chunks = list(source.chunks(0, 1 << 20))
    positions = [chunk.position for chunk in chunks]
    assert len(chunks) > 10
    assert any(chunk.data.parts > 1 for chunk in chunks if not isinstance(chunk.data, Dropped))
    assert positions == sorted(set(positions))
    assert positions[0] >= 0
    assert positions[-1] < source.size
    for begin in {0, 1, *positions, positions[-1] + 1, source.size}:
        assert list(source.chunks(begin, 999)) == [chunk for chunk in chunks if chunk.position >= begin]
    paths, counts = all_of(source)
    assert sorted(paths) == sorted([f"text {number} a", f"text {number} b"] for number in range(60))
    assert counts == {"comment of under 2 words": 60}
    # Another folder, the same chunks.
    other = replace(source, scratch=str(tmp_path / "other"))
    assert all_of(other) == (paths, counts)
    assert [chunk.position for chunk in other.chunks(0, 1)] == positions


@pytest.mark.usefixtures("small")
def test_a_killed_partition_is_made_again_and_a_finished_one_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tmp_path, many())
    expected = all_of(replace(source, scratch=str(tmp_path / "other")))
    append, calls = Reddit._append, 0

    def killed(self: Reddit, buffers: list[bytearray]) -> None:
        nonlocal calls
        append(self, buffers)
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reddit, "_append", killed)
        with pytest.raises(KeyboardInterrupt):
            next(source.chunks(0, 1))
    left = sorted(path.name for path in (tmp_path / "scratch").iterdir())
    assert left
    assert "partition.json" not in left
    assert all_of(source) == expected

    def never(*_: Any) -> None:
        raise AssertionError("the input was read again")

    with monkeypatch.context() as patch:
        patch.setattr(module, "line_chunks", never)
        assert all_of(source) == expected
        # Other filters, or a bucket that somebody removed, need another pass.
        with pytest.raises(AssertionError, match="read again"):
            all_of(replace(source, filters=RedditFilters(min_words=1)))
    assert all_of(source) == expected
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"")):
        spoil(max((tmp_path / "scratch").glob("bucket-*"), key=lambda path: path.stat().st_size))
        assert all_of(source) == expected
    # A partition that replaces a finished one and is killed leaves nothing that looks finished.
    with monkeypatch.context() as patch:
        patch.setattr(Reddit, "_append", killed)
        calls = 2
        with pytest.raises(KeyboardInterrupt):
            next(replace(source, filters=RedditFilters(min_words=1)).chunks(0, 1))
    assert not (tmp_path / "scratch" / "partition.json").exists()
    assert all_of(source) == expected
    # Changed input.
    changed = source_of(tmp_path, many(3))
    assert all_of(changed)[1] == {"comment of under 2 words": 3}


def test_the_folder_cannot_be_written(tmp_path: Path) -> None:
    source = source_of(tmp_path, TREES)
    (tmp_path / "scratch" / "bucket-000.jsonl" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=r"bucket-000\.jsonl cannot be written"):
        all_of(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"RC_2015-01:3: not JSON"),
        ("[1]", r"RC_2015-01:3: found \[1\]; a line of a Reddit dump is an object"),
        ("null", r"RC_2015-01:3: found null"),
        ('"title"', r'RC_2015-01:3: found "title"'),
        ('{"id": "x", "body": "a b"}', r"RC_2015-01:3: found no link_id, where text should stand"),
        ('{"id": 7, "title": "a b"}', r"RC_2015-01:3: found 7 as its id"),
        (json.dumps(comment("x", "t1_a", "a b") | {"body": None}), r"RC_2015-01:3: found null as its body"),
        (json.dumps(comment("x", "t1_a", "a b", score="3")), r'RC_2015-01:3: found "3" as its score'),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "RC_2015-01"
    path.write_text(f"{json.dumps(TREES[0])}\n\n{line}\n{json.dumps(TREES[1])}\n")
    source = Reddit("reddit:x", find_files("reddit:x", str(path)), str(tmp_path / "scratch"))
    with pytest.raises(UserError, match=message):
        next(source.chunks(0, 1 << 20))
    path.write_text(f"{json.dumps(TREES[0])}\n{json.dumps(TREES[1])}\n")
    mended = replace(source, files=find_files("reddit:x", str(path)))
    assert all_of(mended) == ([["text of a", "text of b"]], {})


def test_damaged_files_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    packed = dump(tmp_path / "RC_2015-01.zst", TREES)
    packed.write_bytes(packed.read_bytes()[:-20])
    dump(tmp_path / "RC_2015-02", TREES[:2])
    source = Reddit("reddit:x", find_files("reddit:x", str(tmp_path / "RC_*")), str(tmp_path / "scratch"))
    first: Chunk = next(source.chunks(0, 1 << 20))
    assert isinstance(first.data, Dropped)
    assert (first.data.reason, first.data.count, first.data.damaged) == ("damaged file", 1, True)
    assert "RC_2015-01.zst" in first.data.example
    assert ["text of a", "text of b"] in all_of(source)[0]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_word_chars": -1}, "max_word_chars is -1"),
        ({"min_depth": 0}, "min_depth is 0"),
        ({"min_depth": 6}, "max_depth is 5, below --reddit.min_depth, which is 6"),
        ({"min_words": 31}, "max_turn_words is 30, below --reddit.min_words, which is 31"),
        ({"subreddits": "news"}, "subreddits is the text 'news'"),
        ({"subreddits": ["r/news"]}, "'r/news'"),
        ({"subreddits": ["a", "News"], "blocked_subreddits": ["news"]}, "'news' is in subreddits and in blocked"),
    ],
)
def test_filters_that_no_dump_could_meet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RedditFilters(**options)


def test_rules_of_reddit() -> None:
    assert rules.is_bot("autoModerator")
    assert not rules.is_bot("bottom")
    assert rules.has_quote("&gt; you wrote")
    assert rules.is_deleted("[removed]")
    assert not rules.is_deleted("it was [deleted]")
