"""Runs from beginning to end: what training writes, what it refuses, and which modules it needs."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from tiny import VOCABULARY, metrics_of, run_command, run_config, run_python, write_pages

from jaxgpt.config import CheckpointConfig, EvalConfig, LogConfig, TrainConfig
from jaxgpt.errors import UserError
from jaxgpt.model_config import ModelConfig
from jaxgpt.train import checkpoint
from jaxgpt.train.loop import train


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def finished(pages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps that reached its end."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    outcome = train(run_config(pages, run, 7, eval=EvalConfig(every=5, batches=0, sample_tokens=3)))
    assert (outcome.step, outcome.stopped_by) == (7, None)
    return run


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_writes_what_it_promises(finished: Path, pages: Path) -> None:
    lines = metrics_of(finished)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 8))
    assert [line["step"] for line in lines if "valid_loss" in line] == [5, 7]
    by_step = {line["step"]: line for line in lines if "loss" in line}
    assert by_step[1]["learning_rate"] == pytest.approx(1e-2 / 3)
    assert by_step[7]["learning_rate"] == pytest.approx(1e-3)
    assert 5.5 < by_step[1]["loss"] < 6  # ln 307 is 5.73
    assert by_step[7]["loss"] < by_step[1]["loss"] - 0.5
    for line in by_step.values():
        assert 0 < line["tokens"] <= 8 * 32
    assert yaml.safe_load((finished / "config.yaml").read_text())["model"]["n_embd"] == 16
    assert (finished / "tokenizer" / "tokenizer.json").read_bytes() == (
        pages / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    assert (finished / "samples.txt").read_text().count("--- step") == 2
    assert checkpoint.steps(finished)[-1] == 7
    assert checkpoint.read_run_state(finished, 7).position == 7 * 8
    assert not (finished / "tensorboard").exists()
    assert not (finished / "wandb").exists()  # disabled unless asked for


@pytest.mark.slow
def test_validation_covers_every_target_of_the_split_once(finished: Path, pages: Path) -> None:
    """The logged loss equals one pass over the shard's own tokens with the restored parameters."""
    import jax
    import numpy as np

    from jaxgpt.data.loader import Pages
    from jaxgpt.model.gpt2 import init_params, logits
    from jaxgpt.train.run import read_model_config

    model = read_model_config(finished)
    params = checkpoint.restore_params(finished, 7, jax.eval_shape(lambda: init_params(model, 0)))
    tokens = Pages(pages, "valid")._shards[0].read_span(0, 11 * 32).astype(np.int32)
    nll = []
    for start in range(0, len(tokens) - 1, 32):
        window = tokens[start : start + 33]
        scores = np.asarray(logits(model, params, window[None, :-1])[0], np.float64)
        logprobs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        nll += [-logprobs[at, token] for at, token in enumerate(window[1:])]
    assert len(nll) == 11 * 32 - 1
    logged = [line for line in metrics_of(finished) if "valid_loss" in line][-1]
    assert logged["valid_loss"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert logged["valid_perplexity"] == pytest.approx(np.exp(np.mean(nll)), rel=1e-5)


@pytest.mark.slow
def test_a_finished_run_trained_again_does_nothing(finished: Path, pages: Path) -> None:
    before = _contents(finished)
    cfg = run_config(pages, finished, 7, eval=EvalConfig(every=5, batches=0, sample_tokens=3))
    assert train(cfg).step == 7
    assert _contents(finished) == before
    result = run_command(cfg, finished.parent)
    assert result.returncode == 0, result.stderr
    assert _contents(finished) == before


CHANGES: dict[str, Callable] = {
    "model.n_embd 16, now it is 32": lambda cfg: replace(cfg, model=replace(cfg.model, n_embd=32)),
    "model.n_head 2, now it is 4": lambda cfg: replace(cfg, model=replace(cfg.model, n_head=4)),
    "model.activation_function gelu_new": lambda cfg: replace(
        cfg, model=replace(cfg.model, activation_function="relu")
    ),
    "seed 7, now it is 8": lambda cfg: replace(cfg, seed=8),
}


@pytest.mark.slow
@pytest.mark.parametrize("message", CHANGES)
def test_a_run_does_not_go_on_as_another(finished: Path, pages: Path, message: str) -> None:
    before = _contents(finished)
    with pytest.raises(UserError, match=message):
        train(CHANGES[message](run_config(pages, finished, 9)))
    assert _contents(finished) == before


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_pages(finished: Path, tmp_path: Path) -> None:
    other = write_pages(tmp_path / "other", seed=1)
    before = _contents(finished)
    with pytest.raises(UserError, match="was trained on other pages"):
        train(run_config(other, finished, 9))
    result = run_command(run_config(other, finished, 9), tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert _contents(finished) == before


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/3/params/data"])
def test_a_folder_that_is_no_run_is_not_touched(pages: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("dear diary")
    with pytest.raises(UserError, match="already holds something that is no run"):
        train(run_config(pages, tmp_path / "mine"))
    assert _contents(tmp_path / "mine") == {name: b"dear diary"}


def test_an_output_that_is_a_file_is_not_touched(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear diary")
    with pytest.raises(UserError, match="already holds something that is no run"):
        train(run_config(pages, tmp_path / "mine"))
    assert (tmp_path / "mine").read_text() == "dear diary"


def test_somebody_elses_config_yaml_is_not_overwritten(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("theme: minima\n")
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(UserError):
        train(run_config(pages, tmp_path, 3))
    assert (tmp_path / "config.yaml").read_text() == "theme: minima\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": TrainConfig(5, 12)}, "batch_size 12 is not divisible by 8 devices; try 8 or 16"),
        ({"train": TrainConfig(5, 4)}, "batch_size 4 is not divisible by 8 devices; try 8"),
        ({"train": TrainConfig(5, 24, 2)}, "24 is not divisible by 8 devices times 2 microbatches; try 16 or 32"),
        ({"model": ModelConfig(VOCABULARY + 1, n_positions=32, n_embd=16, n_layer=1, n_head=2)}, "308"),
        ({"model": ModelConfig(VOCABULARY, n_positions=31, n_embd=16, n_layer=1, n_head=2)}, "rows of 32 tokens"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    pages: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(run_config(pages, tmp_path / "run", 5, **changes))
    assert not (tmp_path / "run").exists()


def test_pages_that_are_not_there_or_not_finished_are_refused(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing; build pages there first"):
        train(run_config(tmp_path / "nowhere", tmp_path / "run"))
    unfinished = write_pages(tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(UserError, match="the build did not finish"):
        train(run_config(unfinished, tmp_path / "run"))
    cfg = run_config(pages, tmp_path / "run")
    with pytest.raises(UserError, match="no split 'test'; it has train, valid"):
        train(replace(cfg, data=replace(cfg.data, valid_split="test")))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_command_that_is_refused_ends_with_one_sentence_and_2(pages: Path, tmp_path: Path) -> None:
    cfg = run_config(pages, tmp_path / "run", train=TrainConfig(12, 9))
    result = run_command(cfg, tmp_path, devices=2)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: train.batch_size 9 is not divisible by 2 devices; try 8 or 10",
    ]
    assert not (tmp_path / "run").exists()


HEAVY = ("tensorflow", "torch", "transformers", "wandb", "tensorflow_datasets", "grain", "pandas")


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [False, True], ids=["installed", "absent"])
def test_training_needs_and_imports_none_of_the_heavy_packages(pages: Path, tmp_path: Path, blocked: bool) -> None:
    cfg = run_config(pages, tmp_path / "run", 3, log=LogConfig(every=1, tensorboard=True))
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(asdict(cfg)))
    code = f"""
import sys
HEAVY = {HEAVY!r}

from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec

def without_heavy(name, path=None, target=None):
    return None if name.split(".")[0] in HEAVY else find_spec(name, path, target)

if {blocked}:
    PathFinder.find_spec = without_heavy
sys.argv = ["jaxgpt", "train", "--config", "given.yaml"]
from jaxgpt.cli import main
main()
print("loaded:", *(name for name in HEAVY if name in sys.modules))
"""
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].strip() == "loaded:"
    assert [line["step"] for line in metrics_of(tmp_path / "run") if "loss" in line] == [1, 2, 3]


@pytest.mark.slow
def test_the_outcome_as_json_is_the_last_line(pages: Path, tmp_path: Path) -> None:
    import subprocess

    from tiny import command, environment

    cfg = run_config(pages, tmp_path / "run", 4, checkpoint=CheckpointConfig(every=100))
    result = subprocess.run(
        [*command(cfg, tmp_path), "--json"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert outcome["step"] == 4
    assert outcome["stopped_by"] is None
    assert outcome["tokens_per_second"] > 0
    logged = {
        name: line[name] for line in metrics_of(outcome["run"]) for name in ("loss", "valid_loss") if name in line
    }
    assert (outcome["train_loss"], outcome["valid_loss"]) == (logged["loss"], logged["valid_loss"])
    # The same command without --config goes on (here: is at its end).
    again = subprocess.run(
        [*command(cfg, tmp_path)[:4], "--output", cfg.output],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert again.returncode == 0, again.stderr
    assert "4 steps" in again.stdout


@pytest.mark.slow
def test_the_next_command_need_not_compile(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    compiled = []
    for name in ("first", "second"):
        result = run_command(run_config(pages, tmp_path / name, 3), tmp_path)
        assert result.returncode == 0, result.stderr
        assert "cache" not in result.stderr
        compiled.append({path.name for path in (tmp_path / "cache" / "jaxgpt" / "compiled").glob("*-cache")})
    assert any("init_state" in name for name in compiled[0])
    assert compiled[0] == compiled[1]
    assert metrics_of(tmp_path / "first") == metrics_of(tmp_path / "second")
