"""A run's folder: whether it is one, whether it can go on, and from where."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bucket_server import BUCKET
from small_states import quiet, small

from jaxgpt.config import CheckpointConfig, Config, ModelConfig, OptimizerConfig
from jaxgpt.errors import UserError
from jaxgpt.train.checkpoint import RunState
from jaxgpt.train.run import claimed, is_run, open_run, read_model_config
from jaxgpt.train.saving import Checkpoints


def config(folder: Path, **changes: Any) -> Config:
    return Config(output=str(folder / "run"), model=ModelConfig(n_embd=16, n_head=2, n_layer=1), **changes)


def opened(cfg: Config, *args: Any) -> RunState | None:
    with claimed(Path(cfg.output)):
        return open_run(cfg, *args)


def save(cfg: Config, *steps: int, **changes: Any) -> None:
    """changes: of the configuration as it was saved."""
    with Checkpoints(Path(cfg.output), cfg.checkpoint, quiet) as checkpoints:
        for step in steps:
            checkpoints.save(small(step), RunState(step, 8 * step, {**asdict(cfg), **changes}, "abc", None), {})


def settings(run: Path, **changes: Any) -> None:
    run.mkdir()
    content = {**asdict(Config(output=str(run))), **changes}
    (run / "config.yaml").write_text(yaml.safe_dump({name: x for name, x in content.items() if x != "missing"}))


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({}, True),
        (dict.fromkeys(("init_from", "on_nan", "loss", "guard", "parallel"), "missing"), True),
        ({"model": "missing"}, False),
        ({"data": "missing"}, False),
        ({"output": "missing"}, False),
        ({"plugins": []}, False),
    ],
)
def test_what_is_a_run(tmp_path: Path, changes: dict[str, Any], ours: bool) -> None:
    settings(tmp_path / "run", **changes)
    assert is_run(tmp_path / "run") == ours


def test_a_new_run_and_one_that_goes_on(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    assert opened(cfg, "abc") is None
    assert read_model_config(Path(cfg.output)) == cfg.model
    save(cfg, 3, 5)
    before = opened(replace(cfg, on_nan="stop"), "abc")
    assert before is not None
    assert (before.step, before.position) == (5, 40)
    assert yaml.safe_load((Path(cfg.output) / "config.yaml").read_text())["on_nan"] == "stop"


def test_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="already holds something that is no run"):
        opened(config(tmp_path), "abc")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_only_one_process_at_a_time(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with claimed(run), pytest.raises(UserError, match=r"another process .* trains"), claimed(run):
        pass
    with claimed(run):
        assert not is_run(run)  # the lock alone makes it none, and is nothing in the way


@pytest.mark.parametrize(
    ("changes", "data", "message"),
    [
        ({"model": ModelConfig(n_embd=16, n_head=2, n_layer=2)}, "abc", r"model\.n_layer 1, now it is 2"),
        ({"seed": 43}, "abc", "with seed 42, now it is 43"),
        ({"init_from": "gpt2"}, "abc", "init_from None, now it is gpt2"),
        (
            {"optimizer": OptimizerConfig(name="lion")},
            "abc",
            r"optimizer\.name adamw, now it is lion.*--init_from",
        ),
        ({}, "def", "manifest hash abc, now def"),
    ],
)
def test_what_can_t_go_on(tmp_path: Path, changes: dict[str, Any], data: str, message: str) -> None:
    cfg = config(tmp_path)
    opened(cfg, "abc")
    save(cfg, 3)
    with pytest.raises(UserError, match=message):
        opened(replace(cfg, **changes), data)
    assert yaml.safe_load((Path(cfg.output) / "config.yaml").read_text())["seed"] == 42


def test_runs_from_before_there_was_a_choice_of_optimizers_have_adamw(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    opened(cfg, "abc")
    save(cfg, 3, optimizer={"learning_rate": 1e-3})
    assert opened(cfg, "abc") is not None
    with pytest.raises(UserError, match=r"optimizer\.name adamw, now it is muon"):
        opened(replace(cfg, optimizer=OptimizerConfig(name="muon")), "abc")


def test_a_description_that_can_t_be_read_is_passed_over(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    opened(cfg, "abc")
    save(cfg, 3, 5)
    run = Path(cfg.output)
    (run / "checkpoints/5/run/metadata").write_text("{")
    before = opened(cfg, "abc")
    assert before is not None
    assert before.step == 3
    (run / "checkpoints/3/run/metadata").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"all checkpoints of .* are damaged: .*5/run/metadata .*; .*3/run/metadata"):
        opened(cfg, "abc")


def test_a_run_that_is_gone_comes_from_its_mirror(server, tmp_path: Path) -> None:
    server.empty()
    cfg = config(tmp_path, checkpoint=CheckpointConfig(mirror=f"gs://{BUCKET}/runs/mine/"))
    said: list[str] = []
    assert opened(cfg, "abc", said.append) is None
    save(cfg, 3, 5)
    shutil.rmtree(cfg.output)
    before = opened(cfg, "abc", said.append)
    assert before is not None
    assert before.step == 5
    assert said == [f"{cfg.output}: fetched step 5 from gs://{BUCKET}/runs/mine"]
    shutil.rmtree(cfg.output)
    with pytest.raises(UserError, match="with seed 42, now it is 1"):
        opened(replace(cfg, seed=1), "abc", said.append)


def test_a_fetch_that_fails_leaves_a_folder_that_can_try_again(server, tmp_path: Path) -> None:
    server.empty()
    cfg = config(tmp_path, checkpoint=CheckpointConfig(mirror=f"gs://{BUCKET}/runs/mine"))
    opened(cfg, "abc")
    save(cfg, 3)
    shutil.rmtree(cfg.output)
    server.fault = lambda method, path: 503 if method == "GET" and "params" in path else None
    with pytest.raises(UserError, match="503"):
        opened(cfg, "abc", quiet)
    server.heal()
    before = opened(cfg, "abc", quiet)
    assert before is not None
    assert before.step == 3
