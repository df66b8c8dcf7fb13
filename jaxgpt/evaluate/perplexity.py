"""Corpus perplexity of a model on a split of pages: every target once, with the interval of each figure."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgpt.data.loader import Batch, Pages, evaluation_batches
from jaxgpt.data.manifest import check_fits, check_same_text_format
from jaxgpt.errors import UserError
from jaxgpt.evaluate.protocols import Measured, Sums, bits, measured, spread
from jaxgpt.evaluate.scoring import rows_at_once
from jaxgpt.model.likelihood import target_nll
from jaxgpt.model.stack import Params
from jaxgpt.model_config import ModelConfig
from jaxgpt.progress import progress_bar
from jaxgpt.train.models import Model
from jaxgpt.train.one_behind import one_behind
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.step import AXIS


class Perplexity(NamedTuple):
    """token: exp(Σnll / Σtokens), word: exp(Σnll / Σwords), bits_per_byte: Σnll / ln 2 / Σbytes.

    Tokens are predicted ones of weight above 0, each counted once whatever its weight. Words and bytes are those of
    the original text of the turns or documents that these tokens encode, words between white space, bytes of UTF-8. The
    format's own tokens (speaker tags, ends of turns) count in nll and tokens.
    """

    token: Measured
    word: Measured
    bits_per_byte: Measured

    @property
    def figures(self) -> tuple[Measured, ...]:
        return tuple(self)

    def as_json(self) -> dict[str, Any]:
        return {
            "token_perplexity": self.token.value,
            "word_perplexity": self.word.value,
            "bits_per_byte": self.bits_per_byte.value,
            "nll_sum": self.token.nll_sum,
            "tokens": self.token.tokens,
            "words": self.token.words,
            "bytes": self.token.bytes,
            "figures": [figure.as_json() for figure in self.figures],
        }


def perplexity(model: Model, folder: Path, split: str, batch_size: int | None = None) -> Perplexity:
    """The units of intervals are conversations, as pages cut them, or of documents the pages' rows.

    batch_size: most rows at once; None chooses it by their length. UserError where pages and model differ in
    vocabulary, tokenizer or dialogue format.
    """
    pages = open_pages(model, folder, split)
    nll, tokens = _by_unit(model, pages, batch_size)
    info = pages.info
    if tokens.sum() != info.targets:
        raise UserError(
            f"{folder}: the split {split!r} has {tokens.sum()} targets, its manifest counts {info.targets}; "
            "build the pages again"
        )
    words, text_bytes = spread(info.words, tokens), spread(info.text_bytes, tokens)
    sums = Sums(nll, tokens, words, text_bytes, "conversations" if pages.manifest.kind == "dialogue" else "rows")
    return Perplexity(
        measured("token", sums, sums.tokens),
        measured("word", sums, sums.words),
        measured("bits_per_byte", sums, sums.bytes, bits),
    )


def _by_unit(model: Model, pages: Pages, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Σ nll, nats, and predicted tokens of each unit that has any -> both (units,)."""
    parallel = Pmapped()
    n_rows, n_devices = pages.n_rows(shuffled=False), len(parallel.devices)
    batch_size = rows_at_once(pages.seq_len, n_devices, min(most or n_rows, n_rows))
    compiled = jax.pmap(partial(_batch_nll, model.cfg), axis_name=AXIS, in_axes=(None, 0), devices=parallel.devices)
    params = parallel.replicate(model.params)

    def under_way() -> Iterator[tuple[Batch, jax.Array]]:
        for batch in evaluation_batches(pages, batch_size):
            yield batch, compiled(params, parallel.split(batch))

    found = list[tuple[np.ndarray, np.ndarray]]()
    bar = progress_bar(
        one_behind(under_way()), total=-(-n_rows // batch_size), unit="batch", desc=f"perplexity on {pages.split}"
    )
    for batch, nll in bar:
        found.append(_sums(batch, np.asarray(nll).reshape(batch["targets"].shape)))
    nll_sums, tokens = zip(*found, strict=True)
    return np.concatenate(nll_sums), np.concatenate(tokens)


def _batch_nll(cfg: ModelConfig, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """(B, T), also of targets that don't count."""
    inputs = {f"{name}_BT": batch.get(name) for name in ("positions", "segments", "roles")}
    with jax.default_matmul_precision("highest"):
        return target_nll(cfg, params, batch["input_ids"], batch["targets"], **inputs)


def _sums(batch: Batch, nll_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counted_BT = batch["weights"] > 0
    unit_BT = np.broadcast_to(np.arange(len(nll_BT))[:, None], nll_BT.shape)
    if "segments" in batch:
        unit_BT = unit_BT * (int(batch["segments"].max()) + 1) + batch["segments"]
    _, unit = np.unique(unit_BT[counted_BT], return_inverse=True)
    return np.bincount(unit, nll_BT[counted_BT].astype(np.float64)), np.bincount(unit)


def open_pages(model: Model, folder: Path, split: str) -> Pages:
    if folder.is_file():
        raise UserError(
            f"{folder} is a file; build pages of it first: python data_prep/make_tfrecords.py --source text:{folder} "
            "--output DIR, with the model's tokenizer as --tokenizer"
        )
    pages = Pages(folder, split)
    check_fits(pages.manifest, folder, model.cfg.vocab_size)
    check_same_text_format(pages.manifest, folder, model.tokenizer.hash, model.dialogue_format)
    if pages.seq_len > model.cfg.n_positions:
        if pages.manifest.kind == "dialogue":
            raise UserError(
                f"{folder}: rows of {pages.seq_len} tokens are longer than the model's n_positions "
                f"{model.cfg.n_positions}; build the pages with --row_length {model.cfg.n_positions}"
            )
        pages = Pages(folder, split, model.cfg.n_positions)
    if not pages.info.targets:
        raise UserError(
            f"{folder}: no token of the split {split!r} counts (loss_on {pages.manifest.loss_on}); "
            "build the pages with another --loss_on"
        )
    return pages
