"""Steps that would harm the model, in whole runs: what is done about them, what is logged, what is saved."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny import VOCABULARY, metrics_of, run_config, write_pages

from jaxgpt.config import CheckpointConfig, Config, GuardConfig, TrainConfig
from jaxgpt.data.loader import Pages
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import init_params, logits
from jaxgpt.train import checkpoint, guard, trainer
from jaxgpt.train.loop import train
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.trainer import Trainer

pytestmark = pytest.mark.slow
STEPS = 12
BATCH = 8


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(autouse=True)
def _two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a bad row that only one of them has."""
    monkeypatch.setattr(trainer, "Pmapped", lambda: Pmapped(jax.devices()[:2]))


def _config(pages: Path, run: Path, on_nan: str, steps: int = STEPS, **guarded: Any) -> Config:
    """Saved at steps 3, 5, 6, 9, 10, 12, all of which are kept; no dropout, so that a loss is easy to compute."""
    return run_config(
        pages,
        run,
        steps,
        on_nan=on_nan,
        train=TrainConfig(steps, BATCH, dropout=False),
        checkpoint=CheckpointConfig(every=3, keep_last=20),
        guard=GuardConfig(**{"patience": 2, **guarded}),
    )


Arrays = dict[str, np.ndarray]


def _one_nan(batch: Arrays) -> None:
    batch["weights"][1, 3] = np.nan


def _spoil(monkeypatch: pytest.MonkeyPatch, numbers: set[int], how: Callable[[Arrays], None] = _one_nan) -> None:
    """Makes some batches bad: those of these numbers in the order of the data, from 1."""
    real = trainer.training_batches

    def spoiled(*args: Any) -> Iterator[tuple[Arrays, int]]:
        for batch, position in real(*args):
            if position // BATCH in numbers:
                how(batch)
            yield batch, position

    monkeypatch.setattr(trainer, "training_batches", spoiled)


def _events(run: Path) -> list[tuple[str, int]]:
    lines = (json.loads(line) for line in (run / "events.jsonl").read_text().splitlines())
    return [(line["kind"], line["step"]) for line in lines]


def _losses(run: Path) -> dict[int, float]:
    lines = [line for line in metrics_of(run) if "loss" in line]
    losses = {line["step"]: line["loss"] for line in lines}
    assert list(losses) == [line["step"] for line in lines] == sorted(losses), "a step twice, or out of order"
    return losses


def _loss_of(cfg: Config, step: int, batch: int) -> float:
    """Of the batch of this number under the parameters of a checkpoint, in numpy; step 0 is the beginning."""
    params = init_params(cfg.model, cfg.seed)
    if step:
        params = checkpoint.restore_params(Path(cfg.output), step, jax.eval_shape(lambda: params))
    rows = Pages(Path(cfg.data.path), "train").shuffled(cfg.seed, (batch - 1) * BATCH, BATCH)
    scores = np.asarray(logits(cfg.model, params, rows["input_ids"]), np.float64)
    logprobs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    nll = -np.take_along_axis(logprobs, rows["targets"][..., None], -1)[..., 0]
    return float((nll * rows["weights"]).sum() / rows["weights"].sum())


# In the second case the bad step would have been saved.
@pytest.mark.parametrize(("bad", "saved"), [(7, [3, 5, 6]), (6, [3, 5])])
def test_stop_ends_the_run_and_saves_nothing_of_the_bad_step(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int, saved: list[int]
) -> None:
    run = tmp_path / "run"
    _spoil(monkeypatch, {bad})
    with pytest.raises(UserError, match=rf"step {bad}: loss nan and gradient norm nan.*--on_nan rollback"):
        train(_config(pages, run, "stop"))
    assert checkpoint.steps(run) == saved
    assert _events(run) == [("bad_step", bad)]
    assert np.isnan(_losses(run)[bad])
    cfg = _config(pages, run, "skip")
    outcome = train(cfg)
    assert outcome.step == STEPS
    assert outcome.train_loss is not None
    assert np.isfinite(outcome.train_loss)
    assert _losses(run)[bad + 1] == pytest.approx(_loss_of(cfg, saved[-1], bad + 1), rel=1e-5)


def test_skip_leaves_bad_steps_out(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, bad = tmp_path / "run", {4, 6, 7, STEPS}
    _spoil(monkeypatch, bad)
    cfg = _config(pages, run, "skip", patience=3)
    outcome = train(cfg)
    losses = _losses(run)
    assert list(losses) == list(range(1, STEPS + 1))
    assert {step for step, loss in losses.items() if not np.isfinite(loss)} == bad
    assert _events(run) == [("bad_step", step) for step in sorted(bad)]
    # The parameters of step 3 are also those of step 4, and those of step 5 are those of step 7.
    assert losses[5] == pytest.approx(_loss_of(cfg, 3, 5), rel=1e-5)
    assert losses[8] == pytest.approx(_loss_of(cfg, 5, 8), rel=1e-5)
    assert outcome.train_loss == losses[STEPS - 1]
    assert outcome.valid_loss is not None
    assert np.isfinite(outcome.valid_loss)
    # Bad steps are not saved but the next good one is; except the last, for the run is at its end.
    assert checkpoint.steps(run) == [3, 5, 8, 9, 10, STEPS]
    assert checkpoint.read_run_state(run, STEPS).position == STEPS * BATCH
    before = (run / "metrics.jsonl").read_bytes()
    assert train(cfg).step == STEPS
    assert (run / "metrics.jsonl").read_bytes() == before


def test_skip_ends_the_run_after_so_many_in_a_row(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, {2, 4, 5, 6, 7})
    with pytest.raises(UserError, match=r"step 6: .*number 3 in a row; on_nan is skip and guard.patience 3"):
        train(_config(pages, tmp_path, "skip", patience=3))
    assert checkpoint.steps(tmp_path) == [3]
    assert _events(tmp_path) == [("bad_step", step) for step in (2, 4, 5, 6)]


# The loss of a step is read while the next one is under way, unless the step is to be saved. That next one is given up.
@pytest.mark.parametrize(("bad", "back_to", "from_step"), [({7, 8}, 6, 9), ({5, 6}, 3, 6), ({1, 2}, 0, 3)])
def test_rollback_goes_on_with_later_data(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: set[int], back_to: int, from_step: int
) -> None:
    run = tmp_path / "run"
    _spoil(monkeypatch, bad)
    cfg = _config(pages, run, "rollback")
    assert train(cfg).step == STEPS
    assert _events(run) == [*(("bad_step", step) for step in sorted(bad)), ("rollback", back_to)]
    losses = _losses(run)
    assert list(losses) == list(range(1, STEPS + 1))
    assert np.isfinite(list(losses.values())).all()
    assert losses[back_to + 1] == pytest.approx(_loss_of(cfg, back_to, from_step + 1), rel=1e-5)
    assert [line["step"] for line in metrics_of(run) if "valid_loss" in line] == [5, 10, STEPS]
    assert checkpoint.read_run_state(run, STEPS).position == (STEPS + from_step - back_to) * BATCH


def test_a_run_that_dies_after_a_rollback_ends_with_the_same_numbers(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, {7, 8})
    train(_config(pages, tmp_path / "undisturbed", "rollback"))
    cfg = _config(pages, tmp_path / "run", "rollback")
    step, calls = Trainer.step, []

    def dies(self: Trainer, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 11:  # nine steps, then 7 and 8 for the second time
            raise RuntimeError("the machine is gone")
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", dies)
        with pytest.raises(RuntimeError, match="gone"):
            train(cfg)
    assert _events(tmp_path / "run")[-1] == ("rollback", 6)
    train(cfg)
    # It went on with later data at once, so it did not meet the bad steps again.
    assert _events(tmp_path / "run") == [("bad_step", 7), ("bad_step", 8), ("rollback", 6)]
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "undisturbed")


def test_rollback_gives_up_where_it_does_not_help(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = _config(pages, tmp_path / "run", "rollback")
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        _spoil(patch, set(range(7, 100)))
        with pytest.raises(UserError, match=r"went back to step 6 3 times and met 2 bad steps in a row"):
            train(cfg)
    once = [("bad_step", 7), ("bad_step", 8)]
    assert _events(run) == [*(3 * [*once, ("rollback", 6)]), *once]
    assert checkpoint.steps(run) == [3, 5, 6]
    assert train(cfg).step == STEPS  # the checkpoint is good, and so is the data now
    assert list(_losses(run)) == list(range(1, STEPS + 1))


def test_a_spike_is_a_bad_step(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rare(batch: Arrays) -> None:
        batch["targets"][:] = VOCABULARY - 1

    monkeypatch.setattr(guard, "_KNOWN", 10)
    _spoil(monkeypatch, {22}, rare)
    cfg = _config(pages, tmp_path, "skip", 24, spike=3.0)
    assert train(cfg).step == 24
    losses = _losses(tmp_path)
    known = [losses[step] for step in range(1, 22)]
    assert losses[22] > np.mean(known) + 3 * np.std(known)  # the first fifty losses have the same weight
    assert _events(tmp_path) == [("bad_step", 22)]
    assert losses[23] == pytest.approx(_loss_of(cfg, 21, 23), rel=1e-5)
