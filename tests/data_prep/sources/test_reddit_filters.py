"""The filters of Reddit's dumps: what each leaves out and counts, and that each can be turned off."""

import html
from pathlib import Path
from typing import Any

import pytest
from small_dumps import all_of, comment, replies, source_of

from data_prep.sources.reddit_filters import RedditFilters, has_quote, is_bot, is_deleted
from jaxgpt.errors import UserError

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
        comment("a", "t3_s"),
        comment("b", "t1_a", **turn),
        *replies(c="t1_b", d="t1_c"),
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
        comment("a", "t3_s", author="AutoModerator"),
        comment("b", "t1_a", subreddit="news"),
        comment("c", "t1_b", author="RemindMeBot"),
        comment("d", "t1_c", author=None, subreddit=None),
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
    values = [comment(str(i), f"t1_{i - 1}" if i else "t3_s") for i in range(7)]
    values.append(comment("x", "t1_2"))
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
    assert is_bot("autoModerator")
    assert not is_bot("bottom")
    assert has_quote("&gt; you wrote")
    assert is_deleted("[removed]")
    assert not is_deleted("it was [deleted]")
