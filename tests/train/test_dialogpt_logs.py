"""train_log.txt and eval_log.txt: the columns of DialoGPT, computed another way."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxgpt.errors import UserError
from jaxgpt.train.dialogpt_logs import DialoGPTLogs


@dataclass
class _Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _loss(step: int) -> float:
    return 3.0 + math.sin(step)


def _train(logs: DialoGPTLogs, clock: _Clock, steps: range, every: int = 1) -> None:
    """Epochs of 10 steps, 2 seconds a step, 60 to 69 of 80 tokens count."""
    for step in steps:
        clock.now += 2
        values = {"loss": _loss(step), "tokens": 60 + step % 10, "tokens_total": 80, "epoch": (step - 1) // 10}
        if step % every == 0:
            logs.scalars(step, values)


def _expected(step: int) -> dict[str, float]:
    """By DialoGPT's loop: sums over the epoch up to this step."""
    first = (step - 1) // 10 * 10 + 1
    losses = [_loss(s) for s in range(first, step + 1)]
    return {
        "epoch": (step - 1) // 10 + 1,
        "global_step": step,
        "step": 3 * step,
        "mean_loss": sum(losses) / len(losses),
        "mean_ppl": sum(map(math.exp, losses)) / len(losses),
        "n_token_real": sum(60 + s % 10 for s in range(first, step + 1)),
        "n_token_total": 80 * len(losses),
    }


def _check(row: dict[str, float]) -> None:
    expected = _expected(int(row["global_step"]))
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_columns_are_the_sums_of_the_epoch_so_far(tmp_path: Path) -> None:
    clock = _Clock()
    logs = DialoGPTLogs(tmp_path, 0, 3, clock)
    _train(logs, clock, range(1, 14))
    logs.scalars(13, {"valid_loss": 2.5, "valid_perplexity": math.exp(2.5)})
    logs.close()
    header, *lines = (tmp_path / "train_log.txt").read_text().splitlines()
    assert header == "epoch,global_step,step,mean_loss,mean_ppl,n_token_real,n_token_total,epoch_time"
    assert len(lines) == 13
    rows = _rows(tmp_path / "train_log.txt")
    for row in rows:
        _check(row)
    assert [row["epoch_time"] for row in rows[:10]] == [2.0 * step for step in range(1, 11)]
    assert rows[12]["epoch_time"] == 4.0  # the second epoch's clock starts with its first line
    (row,) = _rows(tmp_path / "eval_log.txt")
    wanted = {"epoch": 2, "global_step": 13, "step": 39, "eval_loss": 2.5, "eval_ppl": math.exp(2.5)}
    assert list(row) == list(wanted)
    assert row == pytest.approx(wanted, abs=1e-4)


def test_a_line_stands_for_the_steps_since_the_one_before(tmp_path: Path) -> None:
    clock = _Clock()
    logs = DialoGPTLogs(tmp_path, 0, 1, clock)
    _train(logs, clock, range(1, 10), every=3)
    logs.close()
    rows = _rows(tmp_path / "train_log.txt")
    assert [row["n_token_total"] for row in rows] == [240, 480, 720]
    assert rows[-1]["n_token_real"] == 3 * (63 + 66 + 69)
    assert rows[-1]["mean_loss"] == pytest.approx((_loss(3) + _loss(6) + _loss(9)) / 3, abs=1e-6)


@pytest.mark.parametrize("resumed", [True, False], ids=["resume", "way back"])
def test_a_resume_and_a_way_back_go_on_from_the_last_line_that_stays(tmp_path: Path, resumed: bool) -> None:
    clock = _Clock()
    logs = DialoGPTLogs(tmp_path, 0, 3, clock)
    _train(logs, clock, range(1, 9))
    logs.scalars(5, {"valid_loss": 1.0, "valid_perplexity": 2.0})
    logs.scalars(8, {"valid_loss": 1.0, "valid_perplexity": 2.0})
    clock.now += 1000  # lost
    if resumed:
        logs.close()
        logs = DialoGPTLogs(tmp_path, 6, 3, clock)
    else:
        logs.rewind(6)
    _train(logs, clock, range(7, 13))
    logs.scalars(12, {"valid_loss": 1.0, "valid_perplexity": 2.0})
    logs.close()
    rows = _rows(tmp_path / "train_log.txt")
    assert [row["global_step"] for row in rows] == list(range(1, 13))
    for row in rows:
        _check(row)
    assert rows[9]["epoch_time"] == 20.0
    assert [(row["epoch"], row["global_step"]) for row in _rows(tmp_path / "eval_log.txt")] == [(1, 5), (2, 12)]


def test_losses_that_are_no_number_leave_the_means_as_they_are(tmp_path: Path) -> None:
    logs = DialoGPTLogs(tmp_path, 0, 1)
    for step, loss in enumerate([math.nan, 2.0, math.inf, math.nan, 1000.0], start=1):
        logs.scalars(step, {"loss": loss, "tokens": 8, "tokens_total": 8, "epoch": 0})
    logs.close()
    rows = _rows(tmp_path / "train_log.txt")
    assert math.isnan(rows[0]["mean_loss"])
    assert [row["mean_loss"] for row in rows[1:4]] == [2.0, 2.0, 2.0]
    assert [row["mean_ppl"] for row in rows[1:]] == [pytest.approx(math.exp(2), abs=1e-4)] * 4  # exp(1000) is too much
    assert rows[4]["mean_loss"] == pytest.approx(2 + (1000 - 2) / 5)
    assert [row["n_token_real"] for row in rows] == [8, 16, 24, 32, 40]


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "train_log.txt").write_text("step 1: all is well\n")
    with pytest.raises(UserError, match=r"train_log\.txt: the last line is 'step 1: all is well', not numbers"):
        DialoGPTLogs(tmp_path, 5, 1)
    assert (tmp_path / "train_log.txt").read_text() == "step 1: all is well\n"
