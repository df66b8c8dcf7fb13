"""What the system is asked in a test set, and which of its replies are kept."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxgpt.data.dialogue import Conversation
from jaxgpt.experiments import replies
from jaxgpt.experiments.config import CamRestExperiment
from jaxgpt.experiments.replies import contexts, generate


def test_what_stands_before_each_turn_of_the_system() -> None:
    talk = Conversation.alternating(["a", "b", "c", "d", "e"])
    assert [[turn.text for turn in before] for before in contexts(talk)] == [["a"], ["a", "b", "c"]]


def write_run(folder: Path) -> Path:
    """What says of a run which weights it has."""
    run = folder / "run"
    (run / "checkpoints" / "5").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {}")
    (run / "checkpoints" / "5" / "files.json").write_text('{"params/x": {"bytes": 1, "crc32c": "00"}}')
    return run


def test_replies_are_kept_for_the_same_weights_and_format_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Answers:
        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def batches(self, talks: list[Any], role: int, done: frozenset[int]) -> Iterator[dict[int, str]]:
            asked.append(len(talks))
            yield {number: f"reply {len(asked)}" for number in range(len(talks))}

    monkeypatch.setattr("jaxgpt.train.models.load_model", lambda run: SimpleNamespace(step=5))
    monkeypatch.setattr("jaxgpt.chat.answering.Answerer", Answers)
    run, talks = write_run(tmp_path), [Conversation.alternating(["a", "b", "c", "d"])]
    files = run / "checkpoints" / "5" / "files.json"
    cfg = CamRestExperiment("camrest", str(tmp_path), "raw")
    assert generate(cfg, run, talks) == generate(cfg, run, talks) == [["reply 1", "reply 1"]]
    files.write_text('{"params/x": {"bytes": 1, "crc32c": "01"}}')  # trained again, on other pages
    assert generate(cfg, run, talks) == [["reply 2", "reply 2"]]
    assert generate(replace(cfg, format="eos"), run, talks) == [["reply 3", "reply 3"]]
    assert asked == [2, 2, 2]


def test_a_killed_call_goes_on_behind_the_last_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[int] = []
    most = 3

    class Answers:
        """Two at a time, from the last to the first, and killed after so many batches."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            pass

        def batches(self, talks: list[Any], role: int, done: frozenset[int]) -> Iterator[dict[int, str]]:
            rest = [number for number in reversed(range(len(talks))) if number not in done]
            for begin in range(0, len(rest), 2):
                if begin == 2 * most:
                    raise KeyboardInterrupt
                answered.extend(rest[begin : begin + 2])
                yield {number: f"to {talks[number][-1].text}" for number in rest[begin : begin + 2]}

    monkeypatch.setattr("jaxgpt.train.models.load_model", lambda run: SimpleNamespace(step=5))
    monkeypatch.setattr("jaxgpt.chat.answering.Answerer", Answers)
    monkeypatch.setattr(replies, "_BLOCK", 4)
    run, cfg = write_run(tmp_path), CamRestExperiment("camrest", str(tmp_path), "raw")
    talks = [Conversation.alternating([f"{n}{turn}" for turn in "abcdef"]) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        replies.generate(cfg, run, talks)
    assert answered == [8, 7, 6, 5, 4, 3]
    kept = json.loads((tmp_path / "replies.json").read_text())["replies"]
    assert kept == [[None] * 3, [None, None, "to 1e"], ["to 2a", "to 2c", "to 2e"]]

    most = 99
    expected = [[f"to {n}{turn}" for turn in "ace"] for n in range(3)]
    assert replies.generate(cfg, run, talks) == expected
    assert answered[6:] == [4, 3, 2, 1, 0]
    assert json.loads((tmp_path / "replies.json").read_text())["replies"] == expected
    assert replies.generate(cfg, run, talks) == expected
    assert len(answered) == 11
