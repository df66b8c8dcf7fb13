"""Shape and arithmetic of a model. Imports no jax.

Field names follow Hugging Face's `GPT2Config` where it has the field.
"""

from dataclasses import dataclass
from typing import Literal

from jaxgpt.checks import positive, probability, require

Kernel = Literal["blocks", "splash", "cudnn"]
Attention = Literal["auto", Kernel]
VOCAB_MULTIPLE = 128  # tables are padded to this many rows: matrix units work on tiles of 128


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
        attention: how training computes it. blocks: in blocks of queries, on any machine; splash: by JAX's kernel for
            TPUs from v4 on; cudnn: by NVIDIA's for GPUs, in bfloat16; auto takes the one made for the device, else
            blocks. The same numbers but for rounding; with attn_pdrop everything is computed at once
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
    attention: Attention = "auto"
    scan_layers: bool = False
    remat: Literal["none", "full", "dots_saveable", "dots_with_no_batch_dims_saveable"] = "none"

    def __post_init__(self) -> None:
        positive(
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
        probability("model", resid_pdrop=self.resid_pdrop, embd_pdrop=self.embd_pdrop, attn_pdrop=self.attn_pdrop)
        nearest = max(self.n_embd // self.n_head, 1) * self.n_head
        require(
            self.n_embd % self.n_head == 0,
            f"model.n_embd {self.n_embd} is not divisible by model.n_head {self.n_head}; "
            f"try n_embd {nearest} or {nearest + self.n_head}",
        )
        require(
            self.table_width <= self.n_embd,
            f"model.embed_dim {self.embed_dim} is more than model.n_embd {self.n_embd}; a factorised embedding is "
            "narrower than the model: lower it, or leave it out",
        )
        require(
            self.n_layer % self.n_groups == 0,
            f"model.n_layer {self.n_layer} is not divisible by model.n_groups {self.n_groups}; groups are of one size",
        )
        require(
            self.n_groups == 1 or self.share != "none",
            f"model.n_groups is {self.n_groups}, but model.share is none; say what the layers of a group share",
        )
        require(
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
