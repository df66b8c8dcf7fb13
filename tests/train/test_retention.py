"""Which checkpoints stay: the rules against lists written by hand."""

import json

import pytest

from jaxgpt.config import CheckpointConfig
from jaxgpt.train.retention import Saved, parse_saved, to_keep

NEVER = 1e6  # hours
HOUR = 3600.0


def _saved(losses: dict[int, float | None], hours_per_step: float = 1.0, name: str = "valid_loss") -> list[Saved]:
    return [
        Saved(step, 1e9 + step * hours_per_step * HOUR, {} if loss is None else {name: loss})
        for step, loss in losses.items()
    ]


def _cfg(last: int = 1, hours: float = NEVER, best: int = 0, **changes) -> CheckpointConfig:
    return CheckpointConfig(keep_last=last, keep_every_hours=hours, keep_best=best, **changes)


def test_the_newest_stay_and_the_first_opens_the_first_period() -> None:
    saved = _saved(dict.fromkeys(range(1, 8)))
    assert to_keep(saved, _cfg(last=3)) == {1, 5, 6, 7}
    assert to_keep(saved[::-1], _cfg(last=3)) == {1, 5, 6, 7}  # whatever their order
    assert to_keep(saved[:2], _cfg(last=3)) == {1, 2}
    assert to_keep([], _cfg()) == set()


def test_the_first_of_each_period_stays() -> None:
    saved = _saved(dict.fromkeys(range(1, 13)))
    assert to_keep(saved, _cfg(last=2, hours=4.0)) == {1, 5, 9, 11, 12}
    # After a pause a period begins with the next checkpoint, not at a multiple of four hours.
    late = [entry._replace(time=entry.time + 2.5 * HOUR) if entry.step > 3 else entry for entry in saved]
    assert to_keep(late, _cfg(last=1, hours=4.0)) == {1, 4, 8, 12}


def test_periods_can_be_parts_of_an_hour() -> None:
    saved = _saved(dict.fromkeys(range(1, 7)), hours_per_step=0.1)
    assert to_keep(saved, _cfg(hours=0.19)) == {1, 3, 5, 6}


def test_the_best_stay() -> None:
    saved = _saved({1: 9.0, 2: 3.0, 3: 5.0, 4: 1.0, 5: None, 6: float("nan"), 7: float("inf"), 8: 8.0})
    assert to_keep(saved, _cfg(best=2)) == {1, 2, 4, 8}
    assert to_keep(saved, _cfg(best=5)) == {1, 2, 3, 4, 8}  # not a number is never good
    assert to_keep(saved, _cfg(best=6)) == {1, 2, 3, 4, 7, 8}


def test_the_metric_has_a_name() -> None:
    saved = _saved({1: 9.0, 2: 2.0, 3: 3.0, 4: 4.0}, name="train_loss")
    assert to_keep(saved, _cfg(best=1, best_metric="train_loss")) == {1, 2, 4}
    assert to_keep(saved, _cfg(best=1)) == {1, 4}


def test_what_any_rule_wants_stays() -> None:
    saved = _saved({1: 5.0, 2: 4.0, 3: 0.5, 4: 4.0, 5: 4.0, 6: 4.0, 7: 4.0})
    assert to_keep(saved, _cfg(last=1, hours=3.0, best=1)) == {1, 3, 4, 7}


def test_files_of_a_checkpoint() -> None:
    metadata = json.dumps({"step": 4, "saved_at": 12.5})
    assert parse_saved(4, metadata, ['{"train_loss": 2, "valid_loss": 4}', '{"valid_loss": 3}'], 99.0) == Saved(
        4, 12.5, {"train_loss": 2.0, "valid_loss": 3.0}
    )
    assert parse_saved(4, "{}", [], 99.0) == Saved(4, 99.0, {})
    for wrong in ("[]", "not JSON"):
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            parse_saved(4, wrong, [], 0.0)
