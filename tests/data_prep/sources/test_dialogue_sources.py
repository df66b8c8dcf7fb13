"""Dialogue, chat messages and DialoGPT's table, line by line against what a reader of the format would write down."""

import json
from pathlib import Path

import pytest

from data_prep.sources.chat import Chat
from data_prep.sources.chunk import Dropped
from data_prep.sources.dialogpt import DialoGPT
from data_prep.sources.dialogue import Dialogue
from data_prep.sources.files import find_files
from jaxgpt.errors import UserError

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"


def items(kind, path, chunk_bytes=1 << 16, **options):
    source = kind("x:y", find_files("x:y", str(path)), **options)
    return [item for chunk in source.chunks(0, chunk_bytes) for item in source.read(chunk)]


def turns(kind, path, **options):
    """Of each conversation, (text, role, weight) of each turn; what was dropped as (reason, example)."""
    return [
        (item.reason, item.example)
        if isinstance(item, Dropped)
        else [(turn.text, turn.role, turn.weight) for turn in item.turns]
        for item in items(kind, path, **options)
    ]


def assert_refused(kind, path, line, message):
    """Also where the line is not in the first chunk."""
    with pytest.raises(UserError) as error:
        items(kind, path, chunk_bytes=4)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert message in str(error.value)


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        path = tmp_path / "input"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


def test_a_list_of_strings_alternates_and_blank_turns_are_left_out(written):
    path = written(["hello ", " hi", "  ", "still here"], "", ["ünïcode 🤖", "x\n\ny"])
    assert turns(Dialogue, path) == [
        [("hello", 0, 1.0), ("hi", 1, 1.0), ("still here", 1, 1.0)],
        [("ünïcode 🤖", 0, 1.0), ("x\n\ny", 1, 1.0)],
    ]


def test_objects_bring_roles_and_real_weights(written):
    path = written(
        [{"text": "a", "role": 1, "weight": 0}, {"text": "b", "role": 0, "weight": 0.35}, "c"],
        {"turns": [{"text": "a", "role": "bob", "mood": "x"}, {"text": " "}, {"text": "b", "role": "bob"}], "id": 7},
        [{"text": "a", "role": "z"}, {"text": "b", "role": "a", "weight": 2}, {"text": "c", "role": "z"}],
        [{"text": "", "role": "first"}, {"text": "b", "role": "second"}],
    )
    assert turns(Dialogue, path) == [
        [("a", 1, 0.0), ("b", 0, 0.35), ("c", 0, 1.0)],
        [("a", 0, 1.0), ("b", 0, 1.0)],
        [("a", 0, 1.0), ("b", 1, 2.0), ("c", 0, 1.0)],
        [("b", 1, 1.0)],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ({"text": "hello"}, "a list of turns belongs"),
        ({"turns": "hello"}, "a list of turns belongs"),
        ("3", "found 3 where a list of turns"),
        (["a", 5], "found 5 where a turn with text"),
        ([{"role": 0}], "where a turn with text"),
        ([{"text": None}], "where a turn with text"),
        ([{"text": "a", "weight": True}], "found the weight true"),
        ([{"text": "a", "weight": "1"}], 'found the weight "1"'),
        ([{"text": "a", "weight": -0.5}], "found the weight -0.5"),
        ([{"text": "a", "weight": None}], "found the weight null"),
        ('[{"text": "a", "weight": NaN}]', "found the weight NaN"),
        ('[{"text": "a", "weight": 1e999}]', "found the weight Infinity"),
        ('[{"text": "a", "weight": 1e39}]', "found the weight 1e+39"),  # no float32
        ([{"text": "a", "weight": 10**400}], "found the weight 1000"),
        ([{"text": "a", "role": 2}], "found the role 2"),
        ([{"text": "a", "role": True}], "found the role true"),
        ([{"text": "a", "role": 0}, {"text": "b", "role": "bob"}], 'found the role "bob" after 0'),
        ([{"text": "a", "role": name} for name in ("x", "y", "x", "z")], 'third speaker "z" beside "x" and "y"'),
        ('["\\ud800", "b"]', "half a surrogate pair"),
    ],
)
def test_what_is_no_dialogue_is_told_with_file_and_line(written, line, message):
    path = written(["a", "b"], "", line)
    assert_refused(Dialogue, path, 3, message)


def test_messages_of_users_and_assistants_become_turns(written):
    path = written(
        {
            "messages": [
                {"role": "system", "content": "Be nice."},
                {"role": "user", "content": "2+2? "},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
                {"role": "tool", "content": "4"},
                {"role": "assistant", "content": "It is 4.", "weight": 0.5},
            ]
        },
        [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": "u"}]}],
        {"id": "x", "conversations": [{"from": "human", "value": "hey"}, {"from": "gpt", "value": "ho", "weight": 0}]},
        [{"role": "model", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    )
    assert turns(Chat, path) == [
        [("2+2?", 0, 1.0), ("It is 4.", 1, 0.5)],
        ("system message", "Be nice."),
        ("tool message", "4"),
        [("look", 0, 1.0)],
        ("image_url in a message", '{"type": "image_url", "image_url": "u"}'),
        [("hey", 0, 1.0), ("ho", 1, 0.0)],
        [("a\nb", 1, 1.0)],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a"}, "where messages belong"),
        (["a"], 'found "a" where a message belongs'),
        ([{"role": "user"}], "where a message with content belongs"),
        ([{"role": "user", "content": 4}], "where a message with content belongs"),
        ([{"role": "user", "content": ["a"]}], "where a part such as"),
        ([{"role": "wizard", "content": "a"}], 'found the role "wizard"; known are user, human, assistant'),
        ([{"content": "a"}], "found the role null"),
        ([{"role": "user", "content": "a", "weight": False}], "found the weight false"),
    ],
)
def test_what_is_no_chat_is_told_with_file_and_line(written, line, message):
    path = written({"messages": []}, line)
    assert_refused(Chat, path, 2, message)


def test_dialogpt_weights_stay_real_and_the_first_turn_has_none(written):
    path = written(
        "0.0 hello\t1.0 hi there",
        "1.0 a EOS 0.35 b EOS c\t0.0 d",
        "2 dogs\t5. is text, .5 too",
        "one\t3.50",
        "0.5 x EOS  EOS y\tz",
    )
    assert turns(DialoGPT, path) == [
        [("hello", 0, 0.0), ("hi there", 1, 1.0)],
        [("a", 0, 0.0), ("b", 1, 0.35), ("c", 0, 1.0), ("d", 1, 0.0)],
        [("2 dogs", 0, 0.0), ("5. is text, .5 too", 1, 1.0)],
        [("one", 0, 0.0), ("3.50", 1, 1.0)],
        [("x", 0, 0.0), ("y", 0, 1.0), ("z", 1, 1.0)],
    ]


def test_dialogpt_leaves_out_what_has_no_weight_and_counts_it(written):
    path = written("0.0 a\t0.0 b", "a\tb")
    assert turns(DialoGPT, path) == [("no turn with a weight", "0.0 a\t0.0 b"), [("a", 0, 0.0), ("b", 1, 1.0)]]


def test_dialogpt_reversed_learns_the_source(written):
    path = written("0.0 hello\t0.7 hi", "0.2 a EOS 0.0 b\tc", "0.0 a EOS 0.5 b\t0.0 c", "a\t0.0 b")
    assert turns(DialoGPT, path, reverse=True) == [
        [("hi", 0, 0.0), ("hello", 1, 0.7)],
        [("c", 0, 0.0), ("b", 1, 0.0), ("a", 0, 0.2)],
        [("c", 0, 0.0), ("b", 1, 0.5), ("a", 0, 0.0)],
        [("b", 0, 0.0), ("a", 1, 1.0)],
    ]


def test_dialogpt_references_make_a_conversation_each(written):
    path = written("hi EOS hello\tone\t0.5 two\tthree")
    context = [("hi", 0, 0.0), ("hello", 1, 1.0)]
    answers = [("one", 0, 1.0), ("two", 0, 0.5), ("three", 0, 1.0)]
    assert turns(DialoGPT, path) == [[*context, answer] for answer in answers]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no tab here", "found no tab in 'no tab here'"),
        ("a\t ", "without text"),
        ("0.0 \t1.0 b", "without text"),
        ("a\tb\t", "without text"),
        ("1.0.0 hello\tb", "found '1.0.0', a weight that is not a number"),
        ("a\tnan hello", "found 'nan', a weight that is not a number"),
        ("a EOS -1.0 hello\tb", "found '-1.0', a weight that is not a number"),
        ("a\t1.0e99 b", "found '1.0e99', a weight that is not a number"),
    ],
)
def test_what_is_no_dialogpt_table_is_told_with_file_and_line(written, line, message):
    path = written("a\tb", "c\td", line)
    assert_refused(DialoGPT, path, 3, message)


def test_dialogpts_own_files():
    path = DATA / "dialogpt" / "train_raw.tsv"
    if not path.exists():
        pytest.skip(f"needs DialoGPT's train_raw.tsv at {path}")
    pairs = [line.split("\t") for line in path.read_text().splitlines()]
    expected = [[(source.strip(), 0, 0.0), (target.strip(), 1, 1.0)] for source, target in pairs]
    assert turns(DialoGPT, path, chunk_bytes=30_000) == expected
    replies = path.with_name("human.ref.6k.txt")
    with pytest.raises(UserError, match=rf"{replies}:1: found no tab"):
        items(DialoGPT, replies)
