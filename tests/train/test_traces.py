"""What is compiled is compiled before the second step, and once."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny import run_config, write_pages

from jaxgpt.config import EvalConfig, ParallelConfig
from jaxgpt.train import pmapped, sharded
from jaxgpt.train.loop import train
from jaxgpt.train.trainer import Trainer

_TRACED = "/jax/core/compile/jaxpr_trace_duration"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "fsdp"])
def test_nothing_is_traced_after_the_first_step_evaluation_and_save(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = write_pages(tmp_path / "pages")
    evaluated = EvalConfig(every=3, batches=1, sample_tokens=2)
    cfg = run_config(
        pages, tmp_path / "run", 8, parallel=ParallelConfig(mode=mode, check_every=2), eval=evaluated, on_nan="skip"
    )
    gradients_traced, traced, before_step = 0, 0, []

    def count_gradients(*inputs):
        nonlocal gradients_traced
        gradients_traced += 1
        return gradients(*inputs)

    def count(event: str, _: float, **details: object) -> None:
        nonlocal traced
        traced += event == _TRACED

    def note_and_step(trainer: Trainer, *inputs):
        before_step.append(traced)
        return step(trainer, *inputs)

    module = pmapped if mode == "pmap" else sharded
    gradients, step = module.gradients, Trainer.step
    monkeypatch.setattr(module, "gradients", count_gradients)
    monkeypatch.setattr(Trainer, "step", note_and_step)
    jax.monitoring.register_event_duration_secs_listener(count)

    train(cfg)
    assert gradients_traced == 1
    assert len(before_step) == 8
    assert before_step[0] > 0
    assert before_step[1] > before_step[0]  # the step itself: the count counts
    assert before_step[1] == before_step[2]
    # Step 3 is the first one that is evaluated, sampled and saved; 6 is the second one.
    assert before_step[3] == before_step[7]

    train(replace(cfg, train=replace(cfg.train, max_steps=12)))
    assert gradients_traced == 2
    assert before_step[9] == before_step[10]
    assert before_step[11] == before_step[10]
