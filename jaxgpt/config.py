"""Everything a training run can be told, one frozen dataclass per YAML section. Imports no jax.

Every value is checked once, where it is made; field names follow Hugging Face's `GPT2Config` where it has the field.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxgpt.backend import check_flags
from jaxgpt.checks import not_negative, positive, require
from jaxgpt.model_config import ModelConfig
from jaxgpt.optimizer_config import LossConfig, OptimizerConfig

RUN_FILE = "config.yaml"  # of a run's folder: its resolved configuration


@dataclass(frozen=True)
class DataConfig:
    """The pages to train on.

    Args:
        path: folder that data_prep/make_tfrecords.py wrote (it holds manifest.json), or gs://BUCKET/FOLDER
        train_split: split to train on
        valid_split: split to evaluate on
        seq_len: tokens per sequence; null means the length of the rows. Dialogue rows can't be cut differently
        prefetch: batches that are read and sent to the devices ahead of the step
        cache: folder for copies of pages in a bucket; null means $XDG_CACHE_HOME/jaxgpt, by default ~/.cache/jaxgpt
    """

    path: str = "data/pages"
    train_split: str = "train"
    valid_split: str = "valid"
    seq_len: int | None = None
    prefetch: int = 2
    cache: str | None = None

    def __post_init__(self) -> None:
        positive("data", prefetch=self.prefetch)
        if self.seq_len is not None:
            positive("data", seq_len=self.seq_len)


@dataclass(frozen=True)
class TrainConfig:
    """How long, and how much at once.

    Args:
        max_steps: optimizer steps of the whole run
        batch_size: sequences per step, over all devices
        microbatches: parts that each device's share of a batch is computed in, one after the other, to save memory
        dropout: false turns the model's dropout off, for this stage of the training
        xla_flags: for XLA's compiler: auto takes those that help on this kind of device, none takes none; or a text of
            flags. What the variable XLA_FLAGS has already stays as it is
    """

    max_steps: int = 100_000
    batch_size: int = 512
    microbatches: int = 1
    dropout: bool = True
    xla_flags: str = "auto"

    def __post_init__(self) -> None:
        check_flags(self.xla_flags)
        positive("train", max_steps=self.max_steps, batch_size=self.batch_size, microbatches=self.microbatches)


@dataclass(frozen=True)
class EvalConfig:
    """Validation during training.

    Args:
        every: steps between two evaluations; the last step is evaluated, too
        batches: batches of train.batch_size to evaluate on, the same every time; 0 means the whole split
        sample_prompt: text that a sample continues at every evaluation; written to samples.txt
        sample_tokens: length of that sample; 0 means no sample
    """

    every: int = 1000
    batches: int = 20
    sample_prompt: str = ""
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        positive("eval", every=self.every)
        not_negative("eval", batches=self.batches, sample_tokens=self.sample_tokens)


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep: a checkpoint stays while any of the rules wants it.

    Args:
        every: steps between two checkpoints; evaluated steps and the last one are saved, too
        keep_last: newest checkpoints to keep
        keep_every_hours: one checkpoint in each such period is kept for ever
        keep_best: checkpoints with the lowest best_metric to keep
        best_metric: what the best ones are chosen by; train_loss is the mean since the last checkpoint
        mirror: gs://BUCKET/FOLDER that every checkpoint is copied to as well; a run whose folder is gone goes on from
            there
    """

    every: int = 1000
    keep_last: int = 10
    keep_every_hours: float = 4.0
    keep_best: int = 1
    best_metric: Literal["valid_loss", "train_loss"] = "valid_loss"
    mirror: str | None = None

    def __post_init__(self) -> None:
        positive("checkpoint", every=self.every, keep_last=self.keep_last, keep_every_hours=self.keep_every_hours)
        not_negative("checkpoint", keep_best=self.keep_best)
        require(
            self.mirror is None or self.mirror.startswith("gs://"),
            f"checkpoint.mirror is {self.mirror}; it must be gs://BUCKET/FOLDER",
        )


@dataclass(frozen=True)
class GuardConfig:
    """Steps that would harm the model: their loss or gradient is no number, or the loss is far too high.

    Args:
        spike: a loss of more than the running mean plus so many running standard deviations is a bad step; 0 means
            only what is no number
        patience: bad steps in a row after which on_nan rollback goes back to the last checkpoint, and skip stops
    """

    spike: float = 8.0
    patience: int = 10

    def __post_init__(self) -> None:
        not_negative("guard", spike=self.spike)
        positive("guard", patience=self.patience)


@dataclass(frozen=True)
class ParallelConfig:
    """How the devices share the work, and where the other hosts are.

    Args:
        mode: pmap has the whole state on every device; fsdp has a part of it on each
        coordinator: HOST:PORT of process 0; null finds it on Cloud TPU, under Slurm and under Open MPI
        num_processes: how many processes take part; null as coordinator
        process_id: number of this one, from 0; null as coordinator
        wait: seconds to wait for the other hosts at the start
        check_every: steps between two checks that all devices agree and keep up; 0 means only before the first step
    """

    mode: Literal["pmap", "fsdp"] = "pmap"
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    wait: int = 300
    check_every: int = 1000

    def __post_init__(self) -> None:
        positive("parallel", wait=self.wait)
        not_negative("parallel", check_every=self.check_every)
        given = [self.coordinator is not None, self.num_processes is not None, self.process_id is not None]
        require(
            len(set(given)) == 1,
            f"parallel.coordinator is {self.coordinator}, parallel.num_processes {self.num_processes} and "
            f"parallel.process_id {self.process_id}; give all three or none of them",
        )
        if self.num_processes is not None and self.process_id is not None:
            positive("parallel", num_processes=self.num_processes)
            require(
                0 <= self.process_id < self.num_processes,
                f"parallel.process_id is {self.process_id}; with parallel.num_processes {self.num_processes} it must "
                f"lie in 0 to {self.num_processes - 1}",
            )


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases.

    Args:
        mode: offline writes to the run folder and can be uploaded later with `wandb sync`
        project: name of the project
        entity: user or team; null means your default
    """

    mode: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "jaxgpt"
    entity: str | None = None


@dataclass(frozen=True)
class LogConfig:
    """Where numbers go; metrics.jsonl is always written.

    Args:
        every: steps between two lines of the log; its rates are since the last line, its loss is of its step
        tensorboard: write the folder tensorboard/ in the run
        all_hosts: a progress bar on every host, for launchers that keep a log of each; else the first one's alone
        peak_tflops: of one device, for the MFU; null takes it from a table by the device's name
        wandb: Weights & Biases
    """

    every: int = 10
    tensorboard: bool = True
    all_hosts: bool = False
    peak_tflops: float | None = None
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        positive("log", every=self.every)
        if self.peak_tflops is not None:
            positive("log", peak_tflops=self.peak_tflops)


@dataclass(frozen=True)
class Config:
    """One training run.

    Args:
        output: the run's folder; an existing run there is continued
        seed: decides initial weights, data order and dropout
        init_from: start with the parameters of this model: a run, an import, a Hugging Face folder or hub name, or a
            file of weights; null starts with random ones
        on_nan: what to do about bad steps (see guard): stop at the first one; skip their updates; or skip, and after
            guard.patience in a row roll back to the last checkpoint, with the data moved past them
        data: the pages to train on
        model: shape and arithmetic
        optimizer: which one, and its schedule
        loss: what is added to the cross-entropy
        train: how long, and how much at once
        eval: validation during training
        checkpoint: when to save, and what to keep
        guard: what a bad step is
        parallel: devices and hosts
        log: where numbers go
    """

    output: str
    seed: int = 42
    init_from: str | None = None
    on_nan: Literal["stop", "skip", "rollback"] = "rollback"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed is {self.seed}; it must be 0 or more")
        self.optimizer.check_length(self.train.max_steps)
        require(
            self.data.seq_len is None or self.data.seq_len <= self.model.n_positions,
            f"data.seq_len {self.data.seq_len} is more than model.n_positions {self.model.n_positions}; "
            "lower the one or raise the other",
        )
