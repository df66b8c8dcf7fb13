"""Everything a training run can be told, one frozen dataclass per YAML section. Imports no jax.

Every value is checked once, where it is made; field names follow Hugging Face's `GPT2Config` where it has the field.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxgpt.checks import not_negative, positive, probability, require
from jaxgpt.model_config import ModelConfig

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
class OptimizerConfig:
    """AdamW under a linear warm-up and a cosine decay.

    Args:
        learning_rate: at the end of the warm-up
        final_learning_rate_ratio: the last step's rate as a fraction of learning_rate
        warmup_steps: steps from 0 to learning_rate
        b1: decay of AdamW's first moment
        b2: decay of AdamW's second moment
        eps: added to the root of the second moment
        weight_decay: per unit of learning rate, on matrices and embedding tables only
        max_grad_norm: gradients are scaled down to this global norm
    """

    learning_rate: float = 6e-4
    final_learning_rate_ratio: float = 0.1
    warmup_steps: int = 2000
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        positive("optimizer", learning_rate=self.learning_rate, eps=self.eps, max_grad_norm=self.max_grad_norm)
        not_negative(
            "optimizer",
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            final_learning_rate_ratio=self.final_learning_rate_ratio,
        )
        probability("optimizer", b1=self.b1, b2=self.b2)


@dataclass(frozen=True)
class TrainConfig:
    """How long, and how much at once.

    Args:
        max_steps: optimizer steps of the whole run
        batch_size: sequences per step, over all devices
        microbatches: parts that each device's share of a batch is computed in, one after the other, to save memory
    """

    max_steps: int = 100_000
    batch_size: int = 512
    microbatches: int = 1

    def __post_init__(self) -> None:
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
        keep_best: checkpoints with the lowest validation loss to keep
    """

    every: int = 1000
    keep_last: int = 10
    keep_every_hours: float = 4.0
    keep_best: int = 1

    def __post_init__(self) -> None:
        positive("checkpoint", every=self.every, keep_last=self.keep_last, keep_every_hours=self.keep_every_hours)
        not_negative("checkpoint", keep_best=self.keep_best)


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
        every: steps between two lines of the log; each line averages over the steps since the last one
        tensorboard: write the folder tensorboard/ in the run
        wandb: Weights & Biases
    """

    every: int = 10
    tensorboard: bool = True
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        positive("log", every=self.every)


@dataclass(frozen=True)
class Config:
    """One training run.

    Args:
        output: the run's folder; an existing run there is continued
        seed: decides initial weights, data order and dropout
        init_from: start with the parameters of this model: a run, an import, a Hugging Face folder or hub name, or a
            file of weights; null starts with random ones
        data: the pages to train on
        model: shape and arithmetic
        optimizer: AdamW and its schedule
        train: how long, and how much at once
        eval: validation during training
        checkpoint: when to save, and what to keep
        log: where numbers go
    """

    output: str
    seed: int = 42
    init_from: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed is {self.seed}; it must be 0 or more")
        require(
            self.optimizer.warmup_steps <= self.train.max_steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} is more than train.max_steps "
            f"{self.train.max_steps}; lower the one or raise the other",
        )
        require(
            self.data.seq_len is None or self.data.seq_len <= self.model.n_positions,
            f"data.seq_len {self.data.seq_len} is more than model.n_positions {self.model.n_positions}; "
            "lower the one or raise the other",
        )
