"""What a perplexity is an average of: each protocol by name, with its parameters in the name.

| protocol | windows | divided by |
|---|---|---|
| token | `--context` tokens, `--stride` apart, over all rows joined by an empty line, as they are | predicted tokens |
| word | each document by itself, after end-of-text; every token | words of the original document |
| bits_per_byte | the same | ln 2 times its bytes |
| adjusted | over the detokenised text, each one token longer, so all tokens but one are predicted | its words - 1 |

What word and bits_per_byte are over does not depend on the tokenizer: models of any vocabularies are compared by them.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.corpora import Corpus
from jaxgpt.evaluate.intervals import ratio_interval
from jaxgpt.evaluate.scoring import Scorer, Text
from jaxgpt.evaluate.windows import check_windows, rolling, sliding
from jaxgpt.progress import progress_bar

PROTOCOLS = ("token", "word", "bits_per_byte", "adjusted")
_BETWEEN_ROWS = "\n\n"


@dataclass(frozen=True)
class Measured:
    """One figure. low, high: of its 95 % interval over `units`, None where there is only one; nll_sum: nats.

    words, bytes: of the original text. unit_sum, unit_per (units,): what the figure's sums are of, for `paired`.
    """

    protocol: str
    value: float
    low: float | None
    high: float | None
    nll_sum: float
    tokens: int
    words: int
    bytes: int
    units: str
    unit_sum: np.ndarray = field(repr=False, compare=False)
    unit_per: np.ndarray = field(repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("unit_")}


@dataclass(frozen=True)
class Sums:
    """Per unit, arrays (units,). A unit is a document, or a window where there is only one document."""

    nll: np.ndarray
    tokens: np.ndarray
    words: np.ndarray
    bytes: np.ndarray
    units: str


def measure(
    scorer: Scorer, tokenizer: Tokenizer, corpus: Corpus, protocols: Sequence[str], context: int, stride: int
) -> list[Measured]:
    """The figures in the order of `protocols`. context, stride: tokens, of `token` and `adjusted`.

    The others give each window as many tokens as the model takes.
    """
    check_protocols(protocols)
    check_windows(context, stride, scorer.context - 1)
    windows = f"context={context},stride={stride}"
    by_document: Sums | None = None
    found = []
    for protocol in protocols:
        if protocol == "token":
            sums = _of_stream(scorer, tokenizer, corpus, _rows(corpus), context, stride)
            found.append(measured(f"token[{windows}]", sums, sums.tokens))
        elif protocol == "adjusted":
            whole = _Stream(corpus.detokenize(corpus.text), np.zeros(1, np.int64))
            # A window's last token is only predicted, so one more fits.
            sums = _of_stream(scorer, tokenizer, corpus, whole, context + 1, stride)
            # Megatron-LM splits at single spaces.
            words = len(corpus.text.strip().split(" ")) - 1
            per = spread(words, sums.tokens)
            found.append(measured(f"adjusted[{windows}]", replace(sums, words=per), per))
        else:
            by_document = by_document or _of_documents(scorer, tokenizer, corpus)
            if protocol == "word":
                found.append(measured("word", by_document, by_document.words))
            else:
                found.append(measured("bits_per_byte", by_document, by_document.bytes, bits))
    return found


def check_protocols(protocols: Sequence[str]) -> None:
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise UserError(f"--protocol {protocol} is unknown; the protocols are {', '.join(PROTOCOLS)}")


def measured(
    name: str,
    sums: Sums,
    per: np.ndarray,
    finish: Callable[[float], float] | None = None,
    of: np.ndarray | None = None,
) -> Measured:
    """The figure `finish`(Σ of / Σ per), by default exp of it, with its interval.

    finish: increasing. of (units,): None means sums.nll. Units without anything of either count nowhere. UserError
    where there is nothing to divide by.
    """
    finish = finish or exp
    if not per.sum() > 0:
        raise UserError(f"{name} is an average over what the data have 0 of; choose other figures by --protocol")
    of = sums.nll if of is None else of
    has_any = (of > 0) | (per > 0) | np.isnan(of)
    unit_sum, unit_per = of[has_any], per[has_any]
    interval = ratio_interval(unit_sum, unit_per)
    return Measured(
        name,
        finish(float(of.sum()) / float(per.sum())),
        finish(interval[0]) if interval else None,
        finish(interval[1]) if interval else None,
        float(sums.nll.sum()),
        round(float(sums.tokens.sum())),
        round(float(sums.words.sum())),
        round(float(sums.bytes.sum())),
        sums.units,
        unit_sum,
        unit_per,
    )


def bits(nats: float) -> float:
    return nats / math.log(2)


def exp(nats: float) -> float:
    return math.inf if nats >= 700 else math.exp(nats)


class _Stream(NamedTuple):
    """A text to be read from beginning to end. begins (documents,): where each document's first character is."""

    text: str
    begins: np.ndarray


def _rows(corpus: Corpus) -> _Stream:
    texts = [_BETWEEN_ROWS.join(document.rows) for document in corpus.documents]
    lengths = [len(text) + len(_BETWEEN_ROWS) for text in texts]
    return _Stream(_BETWEEN_ROWS.join(texts), np.cumsum([0, *lengths[:-1]]))


def _of_stream(
    scorer: Scorer, tokenizer: Tokenizer, corpus: Corpus, stream: _Stream, context: int, stride: int
) -> Sums:
    encoded = tokenizer.backend.encode(stream.text, add_special_tokens=False)
    ids = np.array(encoded.ids, np.int32)
    texts, begins = sliding(ids, context, stride)
    if not texts:
        raise UserError(f"--data {corpus.name} has {len(ids)} tokens; two are the least that predict anything")
    nll, unit = np.zeros(len(ids)), np.full(len(ids), -1)
    for number, scores in progress_bar(scorer.score(texts), total=len(texts), unit="window", desc=corpus.name):
        new = slice(begins[number] + texts[number].first, begins[number] + len(texts[number].ids))
        nll[new], unit[new] = scores.nll, number
    predicted = unit >= 0
    n_units, units = len(texts), "windows"
    if len(stream.begins) > 1:
        starts = np.array([start for start, _ in encoded.offsets])
        unit = np.searchsorted(stream.begins, starts, side="right") - 1
        n_units, units = len(stream.begins), "documents"
    tokens = np.bincount(unit[predicted], minlength=n_units)
    words, n_bytes = (spread(total, tokens) for total in _size(corpus))
    return Sums(np.bincount(unit[predicted], nll[predicted], n_units), tokens, words, n_bytes, units)


def _of_documents(scorer: Scorer, tokenizer: Tokenizer, corpus: Corpus) -> Sums:
    before = tokenizer.eos_token_id
    originals = [document.text for document in corpus.documents]
    encoded = tokenizer.encode_batch([corpus.detokenize(text) for text in originals])
    texts, unit = list[Text](), list[int]()
    for number, ids in enumerate(encoded):
        windows = rolling(np.array(ids, np.int32), before, scorer.context - 1)
        texts += windows
        unit += [number] * len(windows)
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts))
    for number, scores in progress_bar(scorer.score(texts), total=len(texts), unit="window", desc=corpus.name):
        nll[number], tokens[number] = scores.nll.sum(dtype=np.float64), len(scores.nll)
    words = np.array([count_words(text) for text in originals])
    n_bytes = np.array([len(text.encode()) for text in originals])
    if len(originals) == 1:
        return Sums(nll, tokens, spread(words[0], tokens), spread(n_bytes[0], tokens), "windows")
    of_nll, of_tokens = (np.bincount(unit, values, len(originals)) for values in (nll, tokens))
    return Sums(of_nll, of_tokens, words, n_bytes, "documents")


def spread(total: int, tokens: np.ndarray) -> np.ndarray:
    """What units have of the text's words or bytes, which only the whole text can tell: as much as of its tokens."""
    return tokens * (total / tokens.sum())


def _size(corpus: Corpus) -> tuple[int, int]:
    """Words and bytes of all documents."""
    texts = [document.text for document in corpus.documents]
    return sum(map(count_words, texts)), sum(len(text.encode()) for text in texts)


def count_words(text: str) -> int:
    """As lm-evaluation-harness counts: pieces between white space, also empty ones at the ends."""
    return len(re.split(r"\s+", text))
