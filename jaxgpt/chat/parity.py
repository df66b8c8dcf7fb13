"""The proof that PyTorch and JAX compute the same from a model's weights, on the way out and on the way in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgpt.chat.parity_text import Sample, prose
from jaxgpt.chat.quiet import quiet_loading
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt2 import logits
from jaxgpt.model.hf_config import to_hf_config
from jaxgpt.model.stack import Params
from jaxgpt.model.write import Dtype
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import Model

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

# Largest difference of two logits, as a fraction of the largest one, that rounding the weights explains. Random
# models of 12 and 48 layers show 1e-6, 9e-4 and 8e-3 with weights of GPT-2's spread; 7e-6, 4e-3, 5e-2 with thrice that.
BOUNDS: dict[Dtype, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Parity:
    """The same sequences through both models, in float32 arithmetic.

    max_abs_diff: of a logit; relative_diff: the same divided by PyTorch's largest logit, counted
    from the mean of its position, since what all logits of a position have in common means nothing; bound: of that;
    top1_agreement: share of positions with the same likeliest token; tokens: predicted ones; text: what they were.
    """

    max_abs_diff: float
    relative_diff: float
    bound: float
    top1_agreement: float
    jax_perplexity: float
    torch_perplexity: float
    tokens: int
    text: str

    @property
    def holds(self) -> bool:
        return self.relative_diff <= self.bound  # false for NaN

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"JAX and PyTorch on {self.text} ({self.tokens:,} tokens):",
            f"  largest difference of a logit {self.max_abs_diff:.2e}, relative to the largest logit "
            f"{self.relative_diff:.2e} (bound {self.bound:.0e})",
            f"  likeliest token is the same for {self.top1_agreement:.2%}",
            f"  perplexity JAX {self.jax_perplexity:.4f}, PyTorch {self.torch_perplexity:.4f}",
        ]

    def check(self, what: str) -> None:
        """UserError that begins with `what` where the models differ by more than the bound."""
        if not self.holds:
            raise UserError(
                f"{what}: logits of JAX and PyTorch differ by {self.relative_diff:.2e} of the largest, more than "
                f"{self.bound:.0e}; do not use it, and please report this with the model's config.json"
            )


def export_parity(model: Model, folder: Path, dtype: Dtype, sample: Sample) -> Parity:
    """The model against what was exported from it in `dtype`."""
    theirs = torch_logits(_load(folder), model.cfg, sample)
    return compare(sample, theirs, jax_logits(model.cfg, model.params, sample), BOUNDS[dtype])


def import_parity(
    reference: Path | Mapping[str, np.ndarray],
    cfg: ModelConfig,
    params: Callable[[], Params],
    tokenizer: Tokenizer | None,
) -> Parity:
    """Imported parameters against their source.

    reference: a folder that transformers can load, or tensors by Hugging Face's names, each of which is read once.
    params: gives ours; called when PyTorch's model is gone again, so that the two are never in memory together.
    """
    sample = prose(cfg, tokenizer)
    theirs = torch_logits(_load(reference) if isinstance(reference, Path) else _build(cfg, reference), cfg, sample)
    return compare(sample, theirs, jax_logits(cfg, params(), sample), BOUNDS["float32"])


def _load(folder: Path) -> "GPT2LMHeadModel":
    import torch
    from transformers import GPT2LMHeadModel

    quiet_loading()
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def _build(cfg: ModelConfig, tensors: Mapping[str, np.ndarray]) -> "GPT2LMHeadModel":
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):  # shapes only: the tensors take their places one after the other
        model = GPT2LMHeadModel(GPT2Config.from_dict(to_hf_config(cfg, 0, None, "")))
    for name, tensor in tensors.items():
        model.load_state_dict({name: torch.tensor(tensor)}, strict=False, assign=True)
    if cfg.tie_word_embeddings:
        model.lm_head.weight = model.transformer.wte.weight
    return model.eval()


def torch_logits(model: "GPT2LMHeadModel", cfg: ModelConfig, sample: Sample) -> list[np.ndarray]:
    """Logits (T, vocab_size) float32 of each sequence. cfg: of our model, whose stock form `model` is (see fold.py)."""
    import torch

    first = cfg.vocab_size if cfg.use_role_table else 0
    out = []
    with torch.inference_mode():
        for ids, roles in sample.sequences:
            types = torch.tensor(roles[None] + first) if cfg.use_token_types or cfg.use_role_table else None
            logits_TV = model(torch.tensor(ids[None]), token_type_ids=types).logits[0, :, : cfg.vocab_size]
            out.append(logits_TV.numpy().copy())
    return out


def jax_logits(cfg: ModelConfig, params: Params, sample: Sample) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """ids (T,), roles (T,) -> logits (T, vocab_size) float32, in float32 arithmetic whatever cfg.dtype is."""
    cfg = replace(cfg, dtype="float32")
    run = jax.jit(lambda params, ids_BT, roles_BT: logits(cfg, params, ids_BT, roles_BT=roles_BT))
    params = jax.device_put(params)

    def ours(ids: np.ndarray, roles: np.ndarray) -> np.ndarray:
        # One length, one compilation; attention is causal, so what fills the end changes nothing before it.
        fill = ((0, sample.longest - len(ids)),)
        with jax.default_matmul_precision("highest"):
            return np.asarray(run(params, np.pad(ids, fill)[None], np.pad(roles, fill)[None]))[0, : len(ids)]

    return ours


def compare(
    sample: Sample,
    theirs: Sequence[np.ndarray],
    ours: Callable[[np.ndarray, np.ndarray], np.ndarray],
    bound: float,
) -> Parity:
    """theirs: PyTorch's logits (T, V) of each sequence; ours: gives JAX's of one sequence's ids and roles."""
    differences, largest, same, jax_nll, torch_nll = [], [], [], [], []
    for (ids, roles), theirs_TV in zip(sample.sequences, theirs, strict=True):
        ours_TV = ours(ids, roles)
        differences.append(np.abs(ours_TV - theirs_TV).max())
        largest.append(np.abs(theirs_TV - theirs_TV.mean(-1, keepdims=True)).max())
        same.append(ours_TV.argmax(-1) == theirs_TV.argmax(-1))
        jax_nll.append(_nll(ours_TV, ids))
        torch_nll.append(_nll(theirs_TV, ids))
    worst, tokens = float(np.max(differences)), sum(map(len, jax_nll))
    return Parity(
        max_abs_diff=worst,
        relative_diff=worst / max(float(np.max(largest)), 1e-30),
        bound=bound,
        top1_agreement=float(np.concatenate(same).mean()),
        jax_perplexity=_perplexity(jax_nll),
        torch_perplexity=_perplexity(torch_nll),
        tokens=tokens,
        text=sample.what,
    )


def _nll(logits_TV: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Of each token after the first -> (T - 1,) float64, nats."""
    scores = logits_TV[:-1].astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    return np.log(np.exp(scores).sum(-1)) - scores[np.arange(len(scores)), ids[1:]]


def _perplexity(nll: Sequence[np.ndarray]) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(np.concatenate(nll).mean()))
