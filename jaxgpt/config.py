"""Everything a training run can be told, one frozen dataclass per YAML section. Imports no jax.

Every value is checked once, where it is made; field names follow Hugging Face's `GPT2Config` where it has the field.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxgpt.errors import UserError

RUN_FILE = "config.yaml"  # of a run's folder: its resolved configuration
VOCAB_MULTIPLE = 128  # tables are padded to this many rows: matrix units work on tiles of 128


def _require(good: bool, message: str) -> None:
    if not good:
        raise UserError(message)


def _positive(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(value > 0, f"{section}.{name} is {value}; it must be above 0")


def _not_negative(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(value >= 0, f"{section}.{name} is {value}; it must be 0 or more")


def _probability(section: str, **values: float) -> None:
    for name, value in values.items():
        _require(0 <= value < 1, f"{section}.{name} is {value}; it must lie in [0, 1)")


@dataclass(frozen=True)
class ModelConfig:
    """Shape and arithmetic of a GPT-2, plain or ALBERT-style; the defaults are GPT-2 small (124M).

    Args:
        vocab_size: token ids; must be the vocabulary of the data (its manifest says which)
        n_positions: longest sequence, in tokens
        n_embd: width of the residual stream; a multiple of n_head
        n_layer: blocks
        n_head: attention heads
        n_inner: width of the MLP; null means 4 * n_embd
        activation_function: of the MLP; gelu_new is the tanh approximation that GPT-2 uses
        resid_pdrop: dropout probability at the end of attention and MLP
        embd_pdrop: dropout probability of the embeddings
        attn_pdrop: dropout probability of the attention probabilities
        layer_norm_epsilon: added to the variance
        initializer_range: standard deviation of new weights; projections into the residual stream get
            initializer_range / sqrt(2 * n_layer)
        scale_attn_weights: divide attention scores by the root of the head size
        scale_attn_by_inverse_layer_idx: divide them by the layer's number, counted from 1, as well
        tie_word_embeddings: the table of the logits is the embedding table
        embed_dim: width of the embedding tables, ALBERT's factorisation: a dense layer leads from there to n_embd and
            another back before the logits; null means tables of n_embd and no such layers
        share: which parts of a block the layers have in common (attention and mlp each with the LayerNorm before it)
        n_groups: layers are cut into so many equal runs, and what is shared is shared within each
        use_token_types: add the embedding of the speaker's role (token ids 0 and 1, as Hugging Face's token types)
        use_role_table: add the speaker's role from a table of its own instead
        dtype: of the matrix products; parameters, softmax, norms and loss stay float32
        scan_layers: run the layers as a loop over stacked parameters: quicker to compile, slower to run. The same
            numbers; checkpoints of either kind load into the other
        remat: what the backward pass computes again instead of keeping it: none, everything but the results of matrix
            products (dots_saveable), or of those without a batch dimension (dots_with_no_batch_dims_saveable), or full
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: Literal["gelu_new", "gelu_pytorch_tanh", "gelu", "relu", "silu", "tanh"] = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    embed_dim: int | None = None
    share: Literal["none", "all", "attention", "mlp"] = "none"
    n_groups: int = 1
    use_token_types: bool = False
    use_role_table: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool = False
    remat: Literal["none", "full", "dots_saveable", "dots_with_no_batch_dims_saveable"] = "none"

    def __post_init__(self) -> None:
        _positive(
            "model",
            vocab_size=self.vocab_size,
            n_positions=self.n_positions,
            n_embd=self.n_embd,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_inner=self.mlp_width,
            embed_dim=self.table_width,
            n_groups=self.n_groups,
            layer_norm_epsilon=self.layer_norm_epsilon,
            initializer_range=self.initializer_range,
        )
        _probability("model", resid_pdrop=self.resid_pdrop, embd_pdrop=self.embd_pdrop, attn_pdrop=self.attn_pdrop)
        nearest = max(self.n_embd // self.n_head, 1) * self.n_head
        _require(
            self.n_embd % self.n_head == 0,
            f"model.n_embd {self.n_embd} is not divisible by model.n_head {self.n_head}; "
            f"try n_embd {nearest} or {nearest + self.n_head}",
        )
        _require(
            self.table_width <= self.n_embd,
            f"model.embed_dim {self.embed_dim} is more than model.n_embd {self.n_embd}; a factorised embedding is "
            "narrower than the model: lower it, or leave it out",
        )
        _require(
            self.n_layer % self.n_groups == 0,
            f"model.n_layer {self.n_layer} is not divisible by model.n_groups {self.n_groups}; groups are of one size",
        )
        _require(
            self.n_groups == 1 or self.share != "none",
            f"model.n_groups is {self.n_groups}, but model.share is none; say what the layers of a group share",
        )
        _require(
            not (self.use_token_types and self.use_role_table),
            "model.use_token_types and model.use_role_table both add the speaker's role; choose one of them",
        )

    @property
    def mlp_width(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def factorised(self) -> bool:
        return self.embed_dim is not None

    @property
    def table_width(self) -> int:
        """Columns of the embedding tables, and of the hidden states that meet the logits' table."""
        return self.n_embd if self.embed_dim is None else self.embed_dim

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def shares(self, part: Literal["attention", "mlp"]) -> bool:
        """Whether the layers of a group have this part of the block in common."""
        return self.share in ("all", part)

    @property
    def n_params(self) -> int:
        """Parameters, each shared one counted once, padding rows not counted."""
        d, e, f = self.n_embd, self.table_width, self.mlp_width
        rows = (
            self.vocab_size * (1 if self.tie_word_embeddings else 2)
            + self.n_positions
            + (2 if self.use_role_table else 0)
        )
        between = (e * d + d) + (d * e + e) if self.factorised else 0
        attention = 2 * d + (d * 3 * d + 3 * d) + (d * d + d)
        mlp = 2 * d + (d * f + f) + (f * d + d)
        attention *= self.n_groups if self.shares("attention") else self.n_layer
        mlp *= self.n_groups if self.shares("mlp") else self.n_layer
        return rows * e + between + attention + mlp + 2 * d


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
        _positive("data", prefetch=self.prefetch)
        if self.seq_len is not None:
            _positive("data", seq_len=self.seq_len)


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
        _positive("optimizer", learning_rate=self.learning_rate, eps=self.eps, max_grad_norm=self.max_grad_norm)
        _not_negative(
            "optimizer",
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            final_learning_rate_ratio=self.final_learning_rate_ratio,
        )
        _probability("optimizer", b1=self.b1, b2=self.b2)


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
        _positive("train", max_steps=self.max_steps, batch_size=self.batch_size, microbatches=self.microbatches)


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
        _positive("eval", every=self.every)
        _not_negative("eval", batches=self.batches, sample_tokens=self.sample_tokens)


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
        _positive("checkpoint", every=self.every, keep_last=self.keep_last, keep_every_hours=self.keep_every_hours)
        _not_negative("checkpoint", keep_best=self.keep_best)


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
        _positive("log", every=self.every)


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
        _require(self.seed >= 0, f"seed is {self.seed}; it must be 0 or more")
        _require(
            self.optimizer.warmup_steps <= self.train.max_steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} is more than train.max_steps "
            f"{self.train.max_steps}; lower the one or raise the other",
        )
        _require(
            self.data.seq_len is None or self.data.seq_len <= self.model.n_positions,
            f"data.seq_len {self.data.seq_len} is more than model.n_positions {self.model.n_positions}; "
            "lower the one or raise the other",
        )
