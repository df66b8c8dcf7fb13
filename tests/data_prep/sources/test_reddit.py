"""Reddit's dumps: which paths of comments become conversations, and which lines and files are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_dumps import all_of, comment, dump, replies, source_of, submission

from data_prep.sources.chunk import Chunk, Dropped
from data_prep.sources.files import find_files
from data_prep.sources.reddit import Reddit
from data_prep.sources.reddit_filters import RedditFilters
from jaxgpt.errors import UserError

# s: a - b - c        r: f - g
#      \ d                 \ (h fails)
#    e
TREES = [
    *replies(a="t3_s", b="t1_a"),
    comment("f", "t3_r", link="t3_r"),
    *replies(c="t1_b", d="t1_a", e="t3_s"),
    comment("h", "t1_f", "text [h]", link="t3_r"),
    comment("g", "t1_f", link="t3_r"),
]
TITLES = [submission("s", "title of s"), submission("r", "title of r"), submission("q", "title of q")]


@pytest.mark.parametrize("ending", ["", ".zst"])
def test_paths_from_top_level_comments_and_from_titles(tmp_path: Path, ending: str) -> None:
    dump(tmp_path / f"RC_2015-01{ending}", TREES)
    dump(tmp_path / f"RS_2015-01{ending}", TITLES)
    files = find_files("reddit:x", str(tmp_path / "R?_*"))
    source = Reddit("reddit:x", files, str(tmp_path / "scratch"))
    a, b, c, d, e, f, g = (f"text {name}" for name in "abcdefg")
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
        *replies(a="t3_s", b="t1_a"),
        comment("c", "t3_r", link="t3_r"),
    ]
    paths, counts = all_of(source_of(tmp_path, values, titles=True, from_root=True))
    # The title of s is gone, so what is left of r comes first.
    assert paths == [["fine title", "text c"], ["text a", "text b"]]
    assert counts == {"submission with brackets": 1}


def test_parents_may_come_later_or_never(tmp_path: Path) -> None:
    values = replies(c="t1_b", z="t1_nowhere", y="t1_z", b="t1_a", a="t3_s")
    paths, counts = all_of(source_of(tmp_path, values))
    assert (paths, counts) == ([["text z", "text y"], ["text a", "text b", "text c"]], {})
    paths, counts = all_of(source_of(tmp_path, values, from_root=True))
    assert paths == [["text a", "text b", "text c"]]
    assert counts == {"path that begins below a comment that is missing or failed": 1}


def test_cycles_end_and_are_counted_like_repeated_ids(tmp_path: Path) -> None:
    values = replies(self="t1_self", under="t1_self", x="t1_y", y="t1_x", a="t3_s", b="t1_a")
    values.append(comment("b", "t1_x", "other text"))
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
    assert all_of(mended) == ([["text a", "text b"]], {})


def test_damaged_files_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    packed = dump(tmp_path / "RC_2015-01.zst", TREES)
    packed.write_bytes(packed.read_bytes()[:-20])
    dump(tmp_path / "RC_2015-02", TREES[:2])
    source = Reddit("reddit:x", find_files("reddit:x", str(tmp_path / "RC_*")), str(tmp_path / "scratch"))
    first: Chunk = next(source.chunks(0, 1 << 20))
    assert isinstance(first.data, Dropped)
    assert (first.data.reason, first.data.count, first.data.damaged) == ("damaged file", 1, True)
    assert "RC_2015-01.zst" in first.data.example
    assert all_of(source) == ([["text a", "text b"]], {"damaged file": 1})
