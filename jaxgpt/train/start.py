"""The state that a run begins with, or goes on from: of a checkpoint, of another model, or new."""

from dataclasses import asdict, dataclass

from jaxgpt.train.checkpoint import RunState, read_saved
from jaxgpt.train.initial import initial_state
from jaxgpt.train.loggers import METRICS
from jaxgpt.train.models import FoundModel
from jaxgpt.train.saving import Checkpoints, newest_on_all
from jaxgpt.train.share import from_first
from jaxgpt.train.step import TrainState
from jaxgpt.train.trainer import Trainer


@dataclass(frozen=True)
class Start:
    """said: where it comes from; not_evaluated: whether the validation of this step is still to be done."""

    state: TrainState
    run_state: RunState
    said: str
    not_evaluated: bool = False


def start(trainer: Trainer, checkpoints: Checkpoints | None, initial: FoundModel | None) -> Start:
    """The newest checkpoint that is whole; where there is none, step 0 with the parameters of `initial` or new ones.

    Every process of the run calls it. checkpoints: of the first one; initial: None where a run begins with new ones.
    """
    cfg, parallel = trainer.cfg, trainer.parallel
    like = parallel.shapes(cfg)
    found = newest_on_all(checkpoints, like)
    if found:
        state, run_state = found
        step = run_state.step
        said = (
            f"{cfg.output}: goes on from step {step}"
            if step < cfg.train.max_steps
            else f"{cfg.output}: is at step {step} already; raise train.max_steps to go on"
        )
        # A stop may have come in the middle of the validation.
        due = step > 0 and (step % cfg.eval.every == 0 or step == cfg.train.max_steps)
        return Start(state, run_state, said, due and not from_first(lambda: _evaluated(trainer, step)))
    run_state = RunState(0, 0, asdict(cfg), trainer.data_hash, trainer.pages.manifest.dialogue_format)
    if initial:
        said = "; ".join([f"{cfg.output}: starts from {cfg.init_from}", *initial.assumed])
        return Start(initial_state(cfg, initial, like), run_state, said)
    return Start(parallel.init_state(cfg), run_state, f"{cfg.output}: starts")


def _evaluated(trainer: Trainer, step: int) -> bool:
    if "valid_loss" in read_saved(trainer.run, step).metrics:
        return True
    # Of a validation that came after its checkpoint only the log knows.
    log, begins = trainer.run / METRICS, f'{{"step": {step}, "valid_loss": '
    return log.is_file() and any(
        line.startswith(begins) and line.endswith("\n") for line in log.read_text(encoding="utf-8").splitlines(True)
    )
