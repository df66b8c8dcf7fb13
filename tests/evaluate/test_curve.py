"""A run's log as a curve, where its batch size was changed, and where there is none or a broken one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.evaluate.curve import read_curve
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.flops import train_flops_per_token
from jaxgpt.train.retention import METADATA

MODEL = ModelConfig(vocab_size=100, n_positions=128, n_embd=8, n_layer=2, n_head=2)


def line(step: int, tokens_total: int) -> dict[str, Any]:
    return {"step": step, "loss": 5.0, "tokens_total": tokens_total, "step_seconds": 1.0}


def log(run: Path, *lines: dict[str, Any]) -> Path:
    (run / "metrics.jsonl").write_text("".join(json.dumps(values) + "\n" for values in lines))
    return run


def save(run: Path, step: int, batch_size: int) -> None:
    """The part of a checkpoint that tells how its step was trained."""
    file = run / "checkpoints" / str(step) / METADATA
    (file.parent.parent / "params").mkdir(parents=True)
    file.parent.mkdir()
    content = {"step": step, "position": step * batch_size, "data": "hash", "dialogue_format": None}
    file.write_text(json.dumps({**content, "config": {"train": {"batch_size": batch_size}}}))


def test_another_batch_size_counts_from_where_it_began(tmp_path: Path) -> None:
    run = log(tmp_path, line(10, 8 * 128), line(20, 8 * 128), line(30, 16 * 128), line(40, 16 * 128))
    save(run, 20, 8)
    save(run, 40, 16)
    curve = read_curve(run, MODEL, 16)
    assert curve is not None
    assert curve.tokens.tolist() == [10_240, 20_480, 40_960, 61_440]
    np.testing.assert_allclose(curve.flops, curve.tokens * train_flops_per_token(MODEL, 128))
    assert curve.at(np.array([20, 35]), curve.tokens).tolist() == [20_480, 51_200]


def test_a_batch_size_that_no_line_is_of_yet_changes_nothing(tmp_path: Path) -> None:
    """The run has just been resumed: its configuration is ahead of its log."""
    run = log(tmp_path, line(10, 8 * 128), line(20, 8 * 128))
    save(run, 20, 8)
    curve = read_curve(run, MODEL, 16)
    assert curve is not None
    np.testing.assert_allclose(curve.flops, curve.tokens * train_flops_per_token(MODEL, 128))


def test_lines_after_the_last_checkpoint_are_of_the_configuration(tmp_path: Path) -> None:
    run = log(tmp_path, line(20, 8 * 128), line(30, 16 * 128))
    save(run, 20, 8)
    curve = read_curve(run, MODEL, 16)
    assert curve is not None
    np.testing.assert_allclose(curve.flops, curve.tokens * train_flops_per_token(MODEL, 128))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = log(tmp_path, line(20, 8 * 128))
    save(run, 20, 8)
    (run / "checkpoints" / "20" / METADATA).write_text("{")
    save(run, 25, 8)
    curve = read_curve(run, MODEL, 16)
    assert curve is not None
    np.testing.assert_allclose(curve.flops, curve.tokens * train_flops_per_token(MODEL, 128))


def test_without_a_logged_step_there_is_no_curve(tmp_path: Path) -> None:
    assert read_curve(tmp_path, MODEL, 8) is None
    assert read_curve(log(tmp_path), MODEL, 8) is None
    assert read_curve(log(tmp_path, {"step": 0, "valid_loss": 9.0}), MODEL, 8) is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'{"step": 20, "lo', r"metrics\.jsonl line 2: not JSON \(.*\); take the line away"),
        (b"\0\0\0\0", r"metrics\.jsonl line 2: not JSON \(.*\); take the line away"),
        (b'{"step": "\xff"}', r"metrics\.jsonl line 2: not JSON \(.*\); take the line away"),
        (b"[20]", r"metrics\.jsonl line 2: expected step, and tokens_total beside loss; take the line away"),
        (b'{"loss": 1.0}', r"metrics\.jsonl line 2: expected step, and tokens_total beside loss; take the line away"),
        (b'{"step": 20, "loss": 1.0}', r"metrics\.jsonl line 2: expected step, and tokens_total beside loss"),
    ],
)
def test_a_broken_line_is_named(broken: bytes, message: str, tmp_path: Path) -> None:
    file = log(tmp_path, line(10, 1024)) / "metrics.jsonl"
    file.write_bytes(file.read_bytes() + broken + b"\n" + json.dumps(line(30, 1024)).encode() + b"\n")
    with pytest.raises(UserError, match=message):
        read_curve(tmp_path, MODEL, 8)
