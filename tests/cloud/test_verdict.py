"""What hosts' answers come to."""

import re
from typing import Any

import pytest

from cloud.hosts import Answer
from cloud.verdict import Health, judge


def host(worker: int, state: str, step: int | None = None, code: int | None = None, run: str = "mine") -> Answer:
    values: dict[str, Any] = {
        "state": state,
        "run": run,
        "step": step,
        "steps": 9,
        "exit": code,
        "said": f"line of {worker}",
    }
    return Answer(worker, values, "", reached=True)


def silent(worker: int) -> Answer:
    return Answer(worker, {}, "no answer in 45 s", reached=False)


@pytest.mark.parametrize(
    ("answers", "health", "step", "why"),
    [
        ([host(0, "running", 5), host(1, "running", 4)], Health.RUNNING, 5, ""),
        ([host(0, "done", 9, 0), host(1, "running", 9)], Health.RUNNING, 9, ""),
        ([host(0, "done", 9, 0), host(1, "done", 9, 0)], Health.DONE, 9, ""),
        ([host(0, "ready"), host(1, "not set up")], Health.IDLE, None, ""),
        ([host(0, "running", 5), silent(1)], Health.SILENT, 5, "host 1: no answer in 45 s"),
        (
            [host(0, "running", 5), host(1, "killed", 4)],
            Health.BROKEN,
            5,
            "host 1 killed with exit code None: line of 1",
        ),
        ([host(0, "failed", 5, -6), silent(1)], Health.SILENT, 5, "host 1: no answer"),
        ([host(0, "failed", None, 2), host(1, "killed")], Health.BROKEN, None, "host 0 failed .*; host 1 killed"),
        ([host(0, "failed", None, 2), host(1, "failed", None, 2)], Health.MISTAKEN, None, "line of 0; host 1 failed"),
        ([host(0, "running", 5), host(1, "ready")], Health.BROKEN, 5, "nothing runs on host 1"),
        ([host(0, "stopped", 5, 143), host(1, "stopped", 5, 143)], Health.STOPPED, 5, ""),
        (
            [host(0, "running", 5), host(1, "running", 7, run="b")],
            Health.OTHER,
            None,
            "host 1 trains the run b, and no",
        ),
        ([host(0, "done", 9, 0, run="b"), host(1, "stopped", 7, 0, run="b")], Health.IDLE, None, ""),
        ([host(0, "running", 5), host(1, "failed", 7, 1, run="b")], Health.BROKEN, 5, "nothing runs on host 1"),
    ],
)
def test_what_answers_come_to(answers: list[Answer], health: Health, step: int | None, why: str) -> None:
    found = judge(answers, "mine")
    assert (found.health, found.step) == (health, step)
    assert found.late == ("done" in {answer.values.get("state") for answer in answers} and health is Health.RUNNING)
    assert re.search(why, found.why)
    assert found.lives == any(one.values.get("state") == "running" for one in answers) or health is Health.OTHER
    assert found.answered == any(not one.trouble for one in answers)
