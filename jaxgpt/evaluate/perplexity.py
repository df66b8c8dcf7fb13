"""Corpus perplexity of a model on a split of pages: every target once, sums first, one division."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.loader import Pages
from jaxgpt.data.manifest import check_fits, check_same_text_format
from jaxgpt.errors import UserError
from jaxgpt.progress import progress_bar
from jaxgpt.train.models import Model
from jaxgpt.train.pmapped import Pmapped
from jaxgpt.train.validate import split_loss

_TOKENS_PER_BATCH = 4096  # per device


@dataclass(frozen=True)
class Perplexity:
    """token_perplexity exp(Σnll / Σtokens), word_perplexity exp(Σnll / Σwords), bits_per_byte Σnll / ln 2 / Σbytes.

    tokens: predicted ones, of weight above 0, each counted once whatever its weight. words and bytes: of the original
    text of the turns or documents that these tokens encode, words between white space, bytes of UTF-8. The format's own
    tokens (speaker tags, ends of turns) count in nll_sum and tokens.
    """

    token_perplexity: float
    word_perplexity: float
    bits_per_byte: float
    nll_sum: float
    tokens: int
    words: int
    bytes: int

    @classmethod
    def of(cls, nll_sum: float, tokens: int, words: int, n_bytes: int) -> "Perplexity":
        return cls(
            _exp(nll_sum / tokens),
            _exp(nll_sum / words),
            nll_sum / math.log(2) / n_bytes,
            nll_sum,
            tokens,
            words,
            n_bytes,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def perplexity(model: Model, folder: Path, split: str) -> Perplexity:
    """UserError where pages and model differ in vocabulary, tokenizer or dialogue format."""
    pages = open_pages(model, folder, split)
    parallel = Pmapped()
    rows_per_device = -(-pages.n_rows(shuffled=False) // len(parallel.devices))
    batch_size = min(max(_TOKENS_PER_BATCH // pages.seq_len, 1), rows_per_device) * len(parallel.devices)

    def progress(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        total = -(-pages.n_rows(shuffled=False) // batch_size)
        return iter(progress_bar(batches, total=total, unit="batch", desc=f"perplexity on {split}"))

    params = parallel.replicate(model.params)
    result = split_loss(parallel, parallel.eval_step(model.cfg), params, pages, batch_size, progress=progress)
    assert result is not None  # no batch asks for an end
    info = pages.info
    if result.tokens != info.targets:
        raise UserError(
            f"{folder}: the split {split!r} has {result.tokens} targets, its manifest counts {info.targets}; "
            "build the pages again"
        )
    return Perplexity.of(result.nll_sum, result.tokens, info.words, info.text_bytes)


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
