"""The training loop and nothing else."""

import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax

from jaxgpt.config import Config
from jaxgpt.data.cache import page_folder
from jaxgpt.data.loader import Pages, prefetch, training_batches
from jaxgpt.data.manifest import TOKENIZER_FOLDER, check_fits, manifest_hash
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.train.checkpoint import Checkpoints, RunState, steps
from jaxgpt.train.initial import find_initial, initial_state
from jaxgpt.train.parallel import Parallel
from jaxgpt.train.run import is_import, open_run
from jaxgpt.train.sample import sample
from jaxgpt.train.signals import stop_on_signal
from jaxgpt.train.step import Batch, TrainState
from jaxgpt.train.telemetry import Telemetry
from jaxgpt.train.validate import SplitLoss, split_loss


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended. stopped_by: the signal that asked for it, None at the end of the run.

    tokens_per_second: trained tokens of weight above 0 over the time of this call's steps without the first two, which
    compile; None where there were too few steps.
    """

    step: int
    train_loss: float | None
    valid_loss: float | None
    tokens_per_second: float | None
    stopped_by: int | None


class Trainer:
    """What stays the same over the steps of one call of `train`."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        folder = page_folder(cfg.data.path, (cfg.data.train_split, cfg.data.valid_split), cfg.data.cache)
        self.pages = Pages(folder, cfg.data.train_split, cfg.data.seq_len)
        self.valid = Pages(folder, cfg.data.valid_split, cfg.data.seq_len)
        check_fits(self.pages.manifest, self.pages.folder, cfg.model.vocab_size)
        if self.pages.seq_len > cfg.model.n_positions:
            raise UserError(
                f"rows of {self.pages.seq_len} tokens in {self.pages.folder} are longer than model.n_positions "
                f"{cfg.model.n_positions}; raise model.n_positions or set data.seq_len"
            )
        if not self.valid.info.targets:
            raise UserError(
                f"{self.valid.folder}: no token of the split {cfg.data.valid_split!r} counts; build the pages with a "
                "larger share for it or another --loss_on"
            )
        self.parallel = Parallel()
        self.parallel.check_batch(cfg.train.batch_size, cfg.train.microbatches)
        self.train_step = self.parallel.train_step(cfg)
        self.eval_step = self.parallel.eval_step(cfg.model)
        self.tokenizer = load_tokenizer(str(self.pages.folder / TOKENIZER_FOLDER))

    @property
    def data_hash(self) -> str:
        hash_ = manifest_hash(self.pages.folder)
        assert hash_ is not None  # its pages are open
        return hash_

    def batches(self, position: int) -> Generator[tuple[Batch, int], None, None]:
        """Batches on the devices, each with the data position after it, made ahead of the step."""
        host = training_batches(self.pages, self.cfg.train.batch_size, self.cfg.seed, position)
        return prefetch(((self.parallel.split(batch), after) for batch, after in host), self.cfg.data.prefetch)

    def validate(self, state: TrainState) -> SplitLoss:
        batch_size, limit = self.cfg.train.batch_size, self.cfg.eval.batches
        return split_loss(self.parallel, self.eval_step, state.params, self.valid, batch_size, limit)

    def sample(self, state: TrainState, step: int) -> str:
        """The prompt and how the model goes on, as text."""
        prompt = self.tokenizer.encode(self.cfg.eval.sample_prompt) or [self.tokenizer.eos_token_id]
        roles = [0] * len(prompt)
        cfg = self.cfg
        new = sample(cfg.model, state.params, prompt, roles, cfg.eval.sample_tokens, cfg.seed + step)
        return self.tokenizer.decode(prompt + new)


def train(cfg: Config) -> Outcome:
    """Trains until cfg.train.max_steps, from the newest checkpoint of cfg.output where there is one.

    Raises UserError before the first step where configuration, pages and devices do not fit each other.
    """
    if is_import(Path(cfg.output)):
        raise UserError(
            f"{cfg.output} is an imported model, which has no optimizer to go on with; start a new run from it: "
            f"--init_from {cfg.output} --output OTHER"
        )
    trainer = Trainer(cfg)
    new_run = not steps(Path(cfg.output))
    initial = find_initial(cfg, cfg.init_from, trainer.tokenizer) if cfg.init_from and new_run else None
    before = open_run(cfg, trainer.data_hash)
    trainer.tokenizer.save(Path(cfg.output) / TOKENIZER_FOLDER)
    new = RunState(0, 0, asdict(cfg), trainer.data_hash, trainer.pages.manifest.dialogue_format)
    run_state = replace(before or new, config=asdict(cfg))
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signal())
        checkpoints = stack.enter_context(Checkpoints(Path(cfg.output), cfg.checkpoint))
        telemetry = stack.enter_context(Telemetry(cfg, asdict(cfg), run_state.step, run_state.wandb_id))
        if before:
            state = checkpoints.restore(before.step, trainer.parallel.abstract_state(cfg))
            telemetry.say(
                f"{cfg.output}: goes on from step {before.step}"
                if before.step < cfg.train.max_steps
                else f"{cfg.output}: is at step {before.step} already; raise train.max_steps to go on"
            )
        elif initial:
            state = initial_state(cfg, initial, trainer.parallel.abstract_state(cfg))
            telemetry.say("; ".join([f"{cfg.output}: starts from {cfg.init_from}", *initial.assumed]))
        else:
            state = trainer.parallel.init_state(cfg)
        run_state = replace(run_state, wandb_id=telemetry.wandb_id)
        clock = _Clock()
        train_loss = valid_loss = None
        batches = stack.enter_context(closing(trainer.batches(run_state.position)))
        pending = None  # the step before the one under way: its metrics are read while the devices work
        while run_state.step < cfg.train.max_steps and not stop:
            batch, position = next(batches)
            state, metrics = trainer.train_step(state, batch)
            run_state = replace(run_state, step=run_state.step + 1, position=position)
            if pending:
                train_loss = clock.read(*pending, cfg, telemetry)
            pending = (run_state.step, metrics)
            last = run_state.step == cfg.train.max_steps
            evaluate = last or run_state.step % cfg.eval.every == 0
            save = evaluate or run_state.step % cfg.checkpoint.every == 0
            if save:  # the log must hold all that a checkpoint has seen
                train_loss, pending = clock.read(*pending, cfg, telemetry), None
            if evaluate:
                clock.pause()
                valid_loss = _report_validation(trainer, state, run_state.step, telemetry)
                clock.resume()
            if save:
                checkpoints.save(state, run_state, valid_loss if evaluate else None)
        if pending:
            train_loss = clock.read(*pending, cfg, telemetry)
        if stop:
            checkpoints.save(state, run_state)
            telemetry.say(f"{cfg.output}: saved at step {run_state.step}; the same command goes on from there")
    return Outcome(run_state.step, train_loss, valid_loss, clock.tokens_per_second, stop.signal)


def _report_validation(trainer: Trainer, state: TrainState, step: int, telemetry: Telemetry) -> float:
    result = trainer.validate(state)
    telemetry.scalars(step, {"valid_loss": result.loss, "valid_perplexity": result.perplexity})
    telemetry.say(f"step {step}: valid_loss {result.loss:.4f}, valid_perplexity {result.perplexity:.2f}")
    if trainer.cfg.eval.sample_tokens:
        telemetry.text(step, "sample", trainer.sample(state, step))
    return result.loss


class _Clock:
    """Reads metrics of finished steps, logs them, and keeps the speed. The first two steps compile and don't count."""

    _COMPILING = 2

    def __init__(self) -> None:
        self._steps = 0
        self._tokens = 0
        self._seconds = 0.0
        self._window_tokens = 0
        self._window_seconds = 0.0
        self._at = time.perf_counter()

    @property
    def tokens_per_second(self) -> float | None:
        return self._tokens / self._seconds if self._seconds else None

    def pause(self) -> None:
        """Time from here to `resume` belongs to no step."""
        self._elapsed = time.perf_counter() - self._at

    def resume(self) -> None:
        self._at = time.perf_counter() - self._elapsed

    def read(self, step: int, metrics: dict[str, jax.Array], cfg: Config, telemetry: Telemetry) -> float:
        """Waits for the step's metrics; the loss of exactly this step goes to the log, so a resumed run repeats it."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        seconds, self._at = now - self._at, now
        self._steps += 1
        if self._steps > self._COMPILING:
            self._tokens += int(values["tokens"])
            self._seconds += seconds
        self._window_tokens += int(values["tokens"])
        self._window_seconds += seconds
        speed = self._window_tokens / self._window_seconds
        telemetry.progress(values["loss"], speed)
        if step % cfg.log.every == 0 or step == cfg.train.max_steps:
            telemetry.scalars(step, {**values, "tokens_per_second": speed})
            self._window_tokens, self._window_seconds = 0, 0.0
        return values["loss"]
