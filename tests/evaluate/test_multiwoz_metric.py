"""Match and Success by hand, and of real dialogues where they are."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from small_woz import DATABASES, goal, meal, system, user, write_raw

from jaxgpt.errors import UserError
from jaxgpt.evaluate.tasks.database import load_databases
from jaxgpt.evaluate.tasks.delexicalise import Delexicaliser
from jaxgpt.evaluate.tasks.multiwoz import Judged, judge, measure_multiwoz
from jaxgpt.evaluate.tasks.woz import WozDialogue, read_dialogues, read_names

REAL = Path(__file__).parents[3] / "shared" / "data" / "multiwoz21"
GOOD = ["[restaurant_name] is nice , call [restaurant_phone] .", "booked , it is [restaurant_reference] ."]


def dialogue(tmp_path: Path, content: dict[str, Any]) -> WozDialogue:
    (found,) = read_dialogues(write_raw(tmp_path, {"SNG01.json": content}))
    return found


def train(tmp_path: Path, requested: list[str], leave: str, belief: dict[str, str]) -> WozDialogue:
    content = {
        "goal": goal(train={"info": {"destination": "ely", "leaveAt": leave}, "reqt": requested}),
        "log": [user("a train"), system("which ?", {"train": belief})],
    }
    return dialogue(tmp_path, content)


@pytest.mark.parametrize(
    ("constraints", "rows"),
    [
        ({}, (0, 1, 2)),
        ({"food": "Chinese", "area": "dontcare", "pricerange": "not mentioned", "name": "none"}, (0, 2)),
        ({"food": "chinese", "pricerange": "expensive"}, (2,)),
        ({"food": "thai"}, ()),
        ({"stars": "4"}, ()),
    ],
)
def test_rows_that_meet_all_constraints(constraints: dict[str, str], rows: tuple[int, ...]) -> None:
    assert DATABASES.find("restaurant", constraints) == rows


@pytest.mark.parametrize(
    ("constraints", "rows"),
    [
        ({"leaveAt": "9:00"}, (0, 1)),
        ({"leaveAt": "09:01"}, (0,)),
        ({"arriveBy": "14:07", "destination": "ely"}, (1,)),
        ({"arriveBy": "14:08"}, (0, 1)),
        ({"leaveAt": "morning"}, ()),
    ],
)
def test_times_are_compared_as_times(constraints: dict[str, str], rows: tuple[int, ...]) -> None:
    assert DATABASES.find("train", constraints) == rows


def test_a_dialogue_that_gives_all_that_was_asked(tmp_path: Path) -> None:
    found = judge(dialogue(tmp_path, meal()), GOOD, DATABASES)
    assert found == Judged({"restaurant": True}, True)


@pytest.mark.parametrize(
    ("replies", "match", "success"),
    [
        (["[restaurant_name] .", "[restaurant_reference]"], True, False),  # no phone
        (["[restaurant_phone] .", "[restaurant_reference]"], False, False),  # nothing offered
        (["[restaurant_name] [restaurant_phone] [restaurant_reference]", ""], True, False),  # not booked yet
        (["[hotel_name] [hotel_phone]", "[hotel_reference]"], False, False),  # of another domain
    ],
)
def test_what_is_missing_counts(tmp_path: Path, replies: list[str], match: bool, success: bool) -> None:
    found = judge(dialogue(tmp_path, meal()), replies, DATABASES)
    assert (found.match, found.success) == (match, success)


def test_an_offer_that_fits_the_belief_but_not_the_goal_is_no_match(tmp_path: Path) -> None:
    content = meal()
    for turn in content["log"][1::2]:
        turn["metadata"]["restaurant"]["semi"] = {"food": "indian"}  # only one row, in the west
    assert not judge(dialogue(tmp_path, content), GOOD, DATABASES).match


def test_a_row_that_still_fits_stays_and_one_that_does_not_is_replaced(tmp_path: Path) -> None:
    content = meal()
    first, second = content["log"][1]["metadata"]["restaurant"], content["log"][3]["metadata"]["restaurant"]
    first["semi"], second["semi"] = {"food": "indian"}, {"food": "chinese", "pricerange": "moderate"}
    replies = ["[restaurant_name] [restaurant_phone]", "[restaurant_name] [restaurant_reference]"]
    assert judge(dialogue(tmp_path, content), replies, DATABASES).success
    first["semi"], second["semi"] = {"food": "chinese", "pricerange": "moderate"}, {"food": "thai"}  # no row at all
    assert judge(dialogue(tmp_path, content), replies, DATABASES).success


def test_a_row_that_is_drawn_is_the_right_one_as_often_as_chance_has_it(tmp_path: Path) -> None:
    content = meal()
    for turn in content["log"][1::2]:
        turn["metadata"]["restaurant"]["semi"] = {"food": "chinese"}  # two rows, one of them moderate
    found = list(read_dialogues(write_raw(tmp_path, {f"MUL{number}.json": content for number in range(400)})))
    metrics = measure_multiwoz(found, [GOOD] * 400, [GOOD] * 400, DATABASES)
    assert metrics.match == pytest.approx(0.5, abs=0.1)
    assert metrics == measure_multiwoz(found, [GOOD] * 400, [GOOD] * 400, DATABASES)


def test_a_train_need_not_be_offered_unless_its_id_was_asked_for(tmp_path: Path) -> None:
    assert judge(train(tmp_path, ["price"], "12:00", {}), ["hm"], DATABASES).success
    assert not judge(train(tmp_path, ["trainID"], "12:00", {}), ["hm"], DATABASES).match
    belief = {"destination": "ely", "leaveAt": "12:00"}
    assert judge(train(tmp_path, ["trainID"], "12:00", belief), ["[train_id]"], DATABASES).success
    # The early train fits what the system believes, and not what the user wants.
    early = {"destination": "ely", "arriveBy": "11:00"}
    assert not judge(train(tmp_path, ["price"], "12:00", early), ["[train_id]"], DATABASES).match


def test_taxis_and_given_names_match_by_themselves(tmp_path: Path) -> None:
    content = {
        "goal": goal(taxi={"info": {"leaveAt": "9:00"}, "reqt": ["phone"]}, hotel={"info": {"name": "acorn"}}),
        "log": [user("a taxi"), system("ok")],
    }
    found = dialogue(tmp_path, content)
    assert judge(found, ["call [taxi_phone]"], DATABASES).success
    assert judge(found, ["hm"], DATABASES).match
    assert not judge(found, ["hm"], DATABASES).success


def test_all_dialogues_together(tmp_path: Path) -> None:
    found = list(read_dialogues(write_raw(tmp_path, {"A.json": meal(), "B.json": meal()})))
    metrics = measure_multiwoz(found, [GOOD, ["hm", "hm"]], [GOOD, GOOD], DATABASES)
    assert (metrics.match, metrics.success, metrics.match_by_domain) == (0.5, 0.5, {"restaurant": 0.5})
    assert (metrics.dialogues, metrics.turns) == (2, 4)
    assert 0 < metrics.bleu.by_order[3] < 100
    assert metrics.bleu_sequicity == pytest.approx(metrics.bleu.by_order[3] / 100, abs=1e-3)


def test_replies_must_be_as_many_as_turns(tmp_path: Path) -> None:
    found = dialogue(tmp_path, meal())
    with pytest.raises(UserError, match="there are 0 dialogues"):
        measure_multiwoz([], [], [], DATABASES)
    with pytest.raises(UserError, match="SNG01 has 1 replies for 2 turns"):
        measure_multiwoz([found], [["a"]], [GOOD], DATABASES)
    with pytest.raises(UserError, match="SNG01 has 1 references for 2 turns"):
        measure_multiwoz([found], [GOOD], [["a"]], DATABASES)


def without(*path: Any) -> dict[str, Any]:
    content = meal()
    part = content
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    return content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (without("goal"), "'goal' is missing"),
        ({**meal(), "goal": goal()}, "the goal has no domain"),
        (without("log"), "'log' is missing"),
        (without("log", 1, "metadata"), "'metadata' is missing"),
        (without("log", 1, "metadata", "hotel", "semi"), "'semi' is missing"),
        ([], "list indices"),
    ],
)
def test_a_dialogue_that_lacks_something_is_named(tmp_path: Path, content: Any, expected: str) -> None:
    path = write_raw(tmp_path, {"MUL7.json": content})
    with pytest.raises(UserError, match=f"{path}: dialogue MUL7: .*{expected}"):
        list(read_dialogues(path))


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"PK\x03\x04 no zip"])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "data.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        list(read_dialogues(path))


def test_a_zip_is_read_as_its_json(tmp_path: Path) -> None:
    plain = write_raw(tmp_path, {"MUL7.json": meal()})
    with zipfile.ZipFile(tmp_path / "val.json.zip", "w") as archive:
        archive.writestr("val.json", plain.read_text())
    assert list(read_dialogues(tmp_path / "val.json.zip")) == list(read_dialogues(plain))
    (tmp_path / "list.txt").write_text("MUL7.json\nMUL8\n\n")
    assert read_names(tmp_path / "list.txt") == {"MUL7", "MUL8"}
    with pytest.raises(UserError, match="is missing"):
        read_names(tmp_path / "nowhere.txt")
    (tmp_path / "list.txt").write_bytes(b"MUL7\xff.json")
    with pytest.raises(UserError, match=r"list.txt is not UTF-8 .*; get it again"):
        read_names(tmp_path / "list.txt")


def test_databases_must_be_there_and_whole(tmp_path: Path) -> None:
    write_raw(tmp_path, {})
    assert load_databases(tmp_path) == DATABASES
    for content in ("{", "{}", "[1]"):
        (tmp_path / "hotel_db.json").write_text(content)
        with pytest.raises(UserError, match="hotel_db"):
            load_databases(tmp_path)
    (tmp_path / "hotel_db.json").unlink()
    with pytest.raises(UserError, match=r"hotel_db\.json is missing"):
        load_databases(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="MultiWOZ 2.1 is not here")
def test_what_people_said_matches_as_often_as_the_sources_script_finds(tmp_path: Path) -> None:
    """evaluate.py of budzianowski/multiwoz gives 94.2 % and 93.6 % on the test split, with its own placeholders."""
    databases = load_databases(REAL)
    dialogues = list(read_dialogues(REAL / "convlab2_test.json.zip"))
    delexicaliser = Delexicaliser(databases)
    replies = [delexicaliser.dialogue(one)[1::2] for one in dialogues]
    judged = [judge(one, own, databases) for one, own in zip(dialogues, replies, strict=True)]
    assert sum(one.match for one in judged) / 1000 == pytest.approx(0.942, abs=0.01)
    assert sum(one.success for one in judged) / 1000 == pytest.approx(0.936, abs=0.02)
    assert {one.name for one in dialogues} == read_names(REAL / "testListFile")
    json.dumps(measure_multiwoz(dialogues[:50], replies[:50], replies[:50], databases).as_json())
