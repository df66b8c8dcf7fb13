"""A stock GPT-2 of every model: shared layers are repeated, factors multiplied out, and roles become tokens.

Dimensions: V vocabulary, D n_embd, E width of the tables, N rows of any table.
"""

from dataclasses import replace

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.model.convert import to_hf_tensors
from jaxgpt.model.names import LM_HEAD, WPE, WRE, WTE, hf_name
from jaxgpt.model.stack import PARTS, Params, owner
from jaxgpt.model_config import ModelConfig

_LAST_WEIGHT, _LAST_BIAS = hf_name("ln_f.weight"), hf_name("ln_f.bias")
_ROWS = 4096  # of a table that are float64 at the same time
_SOLVED = 1e-6  # of the output bias that may be left over: float32 rounds more


def stock(cfg: ModelConfig, params: Params) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """A model that is neither shared, factorised nor with a role table, and computes the same logits.

    Returns its configuration and its float32 tensors by Hugging Face's names. Layers that share a part hold the same
    array. A role table becomes the rows V and V + 1 of the vocabulary: their ids plus the role are the token types, and
    logits[..., :V] are those of before. UserError where the output bias can't be folded.

    ALBERT-style, x = (wte[ids] + wpe[positions]) P + b = (wte P)[ids] + (wpe P + b)[positions], and the logits are
    (y Q + c) tableᵀ = (y + d) (table Qᵀ)ᵀ, where y + d is a LayerNorm with another bias, for any d with d Q = c.
    """
    tensors = to_hf_tensors(params, cfg)
    wte, wpe, wre, head = tensors[WTE], tensors[WPE], tensors.get(WRE), tensors.get(LM_HEAD)
    last_bias = tensors[_LAST_BIAS]
    if cfg.factorised:
        into_ED, bias_D = tensors[hf_name("embed_in.weight")], tensors[hf_name("embed_in.bias")]
        out_DE, bias_E = tensors[hf_name("embed_out.weight")], tensors[hf_name("embed_out.bias")]
        head = _product(wte if head is None else head, out_DE.T)
        wre = None if wre is None else _product(wre, into_ED)
        wte, wpe = _product(wte, into_ED), _product(wpe, into_ED, bias_D)
        last_bias = (last_bias + _before(out_DE, bias_E)).astype(np.float32)
    if wre is not None:
        head = np.concatenate([wte if head is None else head, np.zeros_like(wre)])
        wte = np.concatenate([wte, wre])

    folded = {WTE: wte, WPE: wpe}
    for layer in range(cfg.n_layer):
        for part, names in PARTS.items():
            kept = hf_name(f"h.{owner(cfg, part, layer)}.")
            for name in tensors:
                if name.startswith(tuple(f"{kept}{prefix}." for prefix in names)):
                    folded[hf_name(f"h.{layer}.{name.removeprefix(kept)}")] = tensors[name]
    folded |= {_LAST_WEIGHT: tensors[_LAST_WEIGHT], _LAST_BIAS: last_bias}
    if head is not None:
        folded[LM_HEAD] = head
    stock_cfg = replace(
        cfg,
        vocab_size=len(wte),
        embed_dim=None,
        share="none",
        n_groups=1,
        use_role_table=False,
        tie_word_embeddings=head is None,
        scan_layers=False,
        remat="none",
    )
    return stock_cfg, folded


def _product(table_NE: np.ndarray, matrix: np.ndarray, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """table · matrix + bias -> float32, rounded once; a part of the rows at a time is float64."""
    wide, out = matrix.astype(np.float64), np.empty((len(table_NE), matrix.shape[1]), np.float32)
    for start in range(0, len(table_NE), _ROWS):
        rows = slice(start, start + _ROWS)
        out[rows] = table_NE[rows].astype(np.float64) @ wide + bias
    return out


def _before(out_DE: np.ndarray, bias_E: np.ndarray) -> np.ndarray:
    """What to add before the product with out_DE so that it adds bias_E after it -> (D,) float64."""
    wide = out_DE.astype(np.float64)
    shift_D = np.linalg.lstsq(wide.T, bias_E.astype(np.float64))[0]
    left = float(np.abs(shift_D @ wide - bias_E).max())
    largest = float(np.abs(bias_E).max())
    if not left <= _SOLVED * largest:
        raise UserError(
            f"embed_out.bias can't be folded into ln_f.bias: {left:.1e} of it would be lost, the largest value is "
            f"{largest:.1e}, because embed_out.weight {out_DE.shape} has no full rank; train on, or with a smaller "
            "model.embed_dim"
        )
    return shift_D
