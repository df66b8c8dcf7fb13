"""The training loop and nothing else."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import SIGTERM
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from jaxgpt.config import Config
from jaxgpt.data.manifest import TOKENIZER_FOLDER
from jaxgpt.errors import UserError
from jaxgpt.model.attention_choice import explain
from jaxgpt.train.checkpoint import RunState, steps
from jaxgpt.train.flops import peak_flops, train_flops_per_token
from jaxgpt.train.health import check_devices
from jaxgpt.train.hosts import Hosts, identity_of, join, leave
from jaxgpt.train.initial import find_initial
from jaxgpt.train.meter import Meter
from jaxgpt.train.models import FoundModel
from jaxgpt.train.remote_run import holds_checkpoint
from jaxgpt.train.run import claimed, is_import, open_run
from jaxgpt.train.saving import Checkpoints
from jaxgpt.train.share import from_first, on_all, same_on_all
from jaxgpt.train.signals import StopRequest, stop_on_signal
from jaxgpt.train.start import Start, start
from jaxgpt.train.step import STOPS, Batch, Metrics, TrainState
from jaxgpt.train.telemetry import Log, Telemetry, of_other_hosts
from jaxgpt.train.trainer import Trainer

C = TypeVar("C", bound=AbstractContextManager[Any])
_ROLLBACKS = 3  # from one checkpoint, before the run gives up


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended. stopped_by: the signal that asked for it (SIGTERM where another host got it), None
    at the end of the run. first_host: whether this process wrote the run.

    tokens_per_second: trained tokens of weight above 0 over the time of this call's steps without the first two, which
    compile; None where there were too few steps.
    """

    step: int
    train_loss: float | None
    valid_loss: float | None
    tokens_per_second: float | None
    stopped_by: int | None
    first_host: bool


def train(cfg: Config) -> Outcome:
    """Trains until cfg.train.max_steps, from the newest whole checkpoint of cfg.output where there is one.

    With several processes each of them calls this. Raises UserError before the first step where configuration, pages,
    devices and hosts do not fit each other.
    """
    hosts = join(cfg.parallel, identity_of(asdict(cfg)), print)
    with stop_on_signal() as stop:
        outcome = _train(cfg, hosts, stop)
        if hosts.count > 1:
            leave()  # only after a good end: it waits for the others, maybe for the first one's last checkpoint
    return outcome


def _train(cfg: Config, hosts: Hosts, stop: StopRequest) -> Outcome:
    with ExitStack() as stack:
        trainer = on_all(lambda: Trainer(cfg, hosts))
        same_on_all("the hash of data.path's manifest", trainer.data_hash)
        is_new = from_first(lambda: _is_new(trainer.run, cfg.checkpoint.mirror))
        initial = on_all(lambda: _find_initial(trainer)) if is_new else None
        _on_first(lambda: claimed(trainer.run), stack)
        from_first(lambda: _prepare(trainer))
        checkpoints = _on_first(lambda: Checkpoints(trainer.run, cfg.checkpoint, tqdm.write), stack)
        began = start(trainer, checkpoints, initial)
        logs_from, wandb_id = began.run_state.step, began.run_state.wandb_id
        first = _on_first(lambda: Telemetry(cfg, asdict(cfg), logs_from, wandb_id), stack)
        log: Log = first or stack.enter_context(of_other_hosts(cfg, logs_from))
        log.say(began.said)
        log.say(explain(cfg.model, trainer.parallel.devices[0], cfg.train.dropout))
        return _Loop(trainer, began, checkpoints, initial, log, stop).run()


def _is_new(run: Path, mirror: str | None) -> bool:
    """Whether there is nothing to go on from, here or in its mirror; UserError where there never will be."""
    if is_import(run):
        raise UserError(
            f"{run} is an imported model, which has no optimizer to go on with; start a new run from it: "
            f"--init_from {run} --output OTHER"
        )
    return not steps(run) and not (mirror and holds_checkpoint(mirror))


def _find_initial(trainer: Trainer) -> FoundModel | None:
    cfg = trainer.cfg
    return find_initial(cfg, cfg.init_from, trainer.tokenizer) if cfg.init_from else None


def _on_first(make: Callable[[], C], stack: ExitStack) -> C | None:
    """What only the first host has, entered as a context; where it can't be made, all hosts raise the same error."""
    made: list[C] = []
    from_first(lambda: made.append(stack.enter_context(make())) if jax.process_index() == 0 else None)
    return made[0] if made else None


def _prepare(trainer: Trainer) -> None:
    """The run's folder, with all that the first host writes before the first step."""
    open_run(trainer.cfg, trainer.data_hash)
    trainer.tokenizer.save(trainer.run / TOKENIZER_FOLDER)


class _Loop:
    """One call's way from a state to a later one."""

    def __init__(
        self,
        trainer: Trainer,
        began: Start,
        checkpoints: Checkpoints | None,
        initial: FoundModel | None,
        log: Log,
        stop: StopRequest,
    ):
        self.trainer, self.cfg, self.hosts, self.log, self.stop = trainer, trainer.cfg, trainer.hosts, log, stop
        self.checkpoints, self.initial = checkpoints, initial
        self.state: TrainState = began.state
        self.run_state = replace(began.run_state, config=asdict(self.cfg), wandb_id=log.wandb_id)
        self._evaluate_first = began.not_evaluated
        device, model = trainer.parallel.devices[0], self.cfg.model
        peak = self.cfg.log.peak_tflops
        self._tokens_per_step = self.cfg.train.batch_size * trainer.pages.seq_len
        self.meter = Meter(
            train_flops_per_token(model, trainer.pages.seq_len) * self._tokens_per_step,
            peak_flops(device.device_kind, model.dtype) if peak is None else peak * 1e12,
            len(trainer.parallel.devices),
        )
        self._stopping = False
        self._bad_in_row = 0
        self._due = False  # a checkpoint, as soon as a step is good
        self._rollbacks = (
            self.run_state.step,
            self.run_state.rollbacks,
        )  # the step gone back to, and how often in a row
        self._losses: list[float] = []  # since the last checkpoint
        self.train_loss: float | None = None
        self.valid_loss: float | None = None

    def run(self) -> Outcome:
        cfg = self.cfg
        self._check()
        if self._evaluate_first:
            scores = self._evaluate()
            if scores and self.checkpoints:
                self.checkpoints.add_metrics(self.run_state.step, scores)
        while self.run_state.step < cfg.train.max_steps and not self._stopping:
            if self._stretch():
                self._go_back()
        if self._stopping:
            self._save()
            self.log.say(f"{cfg.output}: saved at step {self.run_state.step}; the same command goes on from there")
        # Of another host's signal only the wish is known.
        stopped_by = (self.stop.signal or SIGTERM) if self._stopping else None
        return Outcome(
            self.run_state.step,
            self.train_loss,
            self.valid_loss,
            self.meter.tokens_per_second,
            stopped_by,
            self.hosts.is_first,
        )

    def _stretch(self) -> bool:
        """Steps until the end or a stop; True where the run must go back to an earlier checkpoint."""
        cfg, trainer = self.cfg, self.trainer
        pending: tuple[RunState, Metrics] | None = None  # its metrics are read while the devices work on the next one
        with closing(trainer.batches(self.run_state.position)) as batches:
            while self.run_state.step < cfg.train.max_steps and not self._stopping:
                # Alone, a host stops before the next step; several learn of the wish through the next one's metrics.
                if self.stop and self.hosts.count == 1:
                    self._stopping = True
                    break
                batch, position = self._next(batches, pending)
                self.state, metrics = trainer.step(self.state, batch, bool(self.stop))
                self.run_state = replace(self.run_state, step=self.run_state.step + 1, position=position, rollbacks=0)
                if pending and self._read(*pending):
                    return True
                pending = (self.run_state, metrics)
                step = self.run_state.step
                evaluate = step == cfg.train.max_steps or step % cfg.eval.every == 0
                check = cfg.parallel.check_every > 0 and step % cfg.parallel.check_every == 0
                self._due |= evaluate or step % cfg.checkpoint.every == 0
                if not self._due and not check:
                    continue
                # The log must hold all that a checkpoint has seen.
                done, pending = pending, None
                if self._read(*done):
                    return True
                if check:
                    self._check()
                scores = self._evaluate() if evaluate else {}
                # What a bad step leaves may be what made it bad, so that it is nothing to go back to: the save waits
                # for a good one. At the end nobody goes back, and a last step must be saved to be the last.
                if self._due and (not self._bad_in_row or step == cfg.train.max_steps):
                    self._save(scores)
        return pending is not None and self._read(*pending)

    def _next(
        self, batches: Iterator[tuple[Batch, int]], pending: tuple[RunState, Metrics] | None
    ) -> tuple[Batch, int]:
        try:
            with self.meter.during("data"):
                return next(batches)
        except (UserError, OSError):
            # The steps before the page that can't be read are good. Several hosts would have to agree on it.
            if self.hosts.count == 1 and not (pending and self._read(*pending)):
                self._save()
            raise

    def _read(self, at: RunState, metrics: Metrics) -> bool:
        """Waits for a step's metrics and logs them: the loss of exactly this step, so that a resumed run repeats it.

        True where so many bad steps came in a row that the run must go back.
        """
        cfg = self.cfg
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.meter.step_done(int(values["tokens"]))
        self._stopping |= values.pop(STOPS) > 0
        self._bad_in_row = int(values.pop("bad_in_row"))
        self.log.progress(at.step, values["loss"], self.meter.tokens_per_second)
        if at.step % cfg.log.every == 0 or at.step == cfg.train.max_steps:
            total, epoch = self._tokens_per_step, self.trainer.epoch(at.position)
            values |= {"epoch": epoch, "tokens_total": total, **self.meter.values()}
            self.log.scalars(at.step, values)
        if not values["tokens"]:  # it says nothing of the model
            return False
        if not self._bad_in_row:
            self.train_loss = values["loss"]
            self._losses.append(values["loss"])
            return False
        loss, norm = values["loss"], values["grad_norm"]
        what = f"loss {loss:.4g} and gradient norm {norm:.4g}: bad step, number {self._bad_in_row} in a row"
        self.log.event(at.step, "bad_step", what, loss=loss, grad_norm=norm, bad_in_row=self._bad_in_row)
        if cfg.on_nan == "stop" or (cfg.on_nan == "skip" and self._bad_in_row >= cfg.guard.patience):
            raise UserError(
                f"{cfg.output}: step {at.step}: {what}; on_nan is {cfg.on_nan} and guard.patience "
                f"{cfg.guard.patience}; the checkpoints before it are whole: go on with --on_nan rollback, or with a "
                "lower optimizer.learning_rate"
            )
        return cfg.on_nan == "rollback" and self._bad_in_row >= cfg.guard.patience

    def _check(self) -> None:
        step = self.run_state.step
        check_devices(self.trainer.parallel, self.state, lambda line: self.log.event(step, "slow_device", line))

    def _go_back(self) -> None:
        """To the last checkpoint, with the data order moved past the steps that were bad."""
        was = self.run_state
        jax.block_until_ready(self.state)
        del self.state  # a device may not have room for two
        with self.meter.during("save"):
            began = start(self.trainer, self.checkpoints, self.initial)
        to, before = began.run_state.step, self._rollbacks
        self._rollbacks = (to, before[1] + 1 if before[0] == to else 1)
        if self._rollbacks[1] > _ROLLBACKS:
            raise UserError(
                f"{self.cfg.output}: went back to step {to} {_ROLLBACKS} times and met {self.cfg.guard.patience} bad "
                "steps in a row each time; lower optimizer.learning_rate, or raise guard.spike if these steps are good"
            )
        self.log.rewind(to)
        # The steps there were bad before others were, which are over.
        guard = began.state.guard
        self.state = began.state._replace(guard=guard._replace(bad_in_row=guard.bad_in_row * 0))
        self.run_state = replace(was, step=to, rollbacks=self._rollbacks[1])
        if self.checkpoints:
            self.checkpoints.add_way_back(self.run_state)
        self._losses.clear()
        self._due = False
        self.log.event(
            to, "rollback", f"from step {was.step} back to step {to}; the data goes on", from_step=float(was.step)
        )

    def _evaluate(self) -> dict[str, float]:
        """The validation loss, which goes to the log; nothing where a host asked for an end before all was done."""
        step = self.run_state.step
        with self.meter.during("evaluate"):
            result = self.trainer.validate(self.state, lambda: bool(self.stop))
            if result is None:
                self._stopping = True
                return {}
            self.valid_loss = result.loss
            self.log.scalars(step, {"valid_loss": result.loss, "valid_perplexity": result.perplexity})
            self.log.say(f"step {step}: valid_loss {result.loss:.4f}, valid_perplexity {result.perplexity:.2f}")
            if self.trainer.samples and self.hosts.is_first:
                self.log.text(step, "sample", self.trainer.sample(self.state, step))
        return {"valid_loss": result.loss}

    def _save(self, scores: dict[str, float] | None = None) -> None:
        self._due = False
        scores = dict(scores or {})
        if self._losses:
            scores["train_loss"] = sum(self._losses) / len(self._losses)
            self._losses.clear()
        with self.meter.during("save"):
            whole = self.trainer.parallel.on_host(self.state)
            if self.checkpoints:
                self.checkpoints.save(whole, self.run_state, scores)
