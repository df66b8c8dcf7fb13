"""Texts to token ids, as fast as an exact tokenizer goes."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer

Engine = Literal["gigatoken", "tokenizers"]

# What byte-level tokenizers have been seen to differ in.
_SAMPLE = (
    "Hello world",
    " Hello  world\n\n \n",
    "I've 123 naïve 🤖 they'LL don't 4567890",
    "<|endoftext|> typed, <sep>, <s> and </s> too",
    "\t\ttabs\r\nand   spaces \u00a0\u2003\u3000 of all kinds\x00\x1f\x7f",
    "四五六 한국어 ไทย العربية עברית हिन्दी",
    "e\u0301 \u200d👩‍👩‍👧 ﬁ ½ ² Ⅷ",
    "http://example.com/a?b=c&d=%20#e __init__ x**2 != y",
    "",
    " ",
    "a" * 300,
)


class Encoder:
    """One of two engines with the same ids: gigatoken, some thirty times as fast, or Hugging Face's tokenizers."""

    def __init__(self, tokenizer: Tokenizer, engine: Engine):
        self.tokenizer, self.engine = tokenizer, engine
        self._fast = _gigatoken(tokenizer) if engine == "gigatoken" else None

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts one after the other, uint32 (n,), and where each begins and the last ends (texts + 1,)."""
        if not texts:
            return np.empty(0, np.uint32), np.zeros(1, np.int64)
        if self._fast is not None:
            encoded = [self._fast.encode(text) for text in texts]
        else:
            encoded = [np.array(ids, np.uint32) for ids in self.tokenizer.encode_batch(texts)]
        return np.concatenate(encoded), np.cumsum([0, *map(len, encoded)])


def choose_engine(tokenizer: Tokenizer, sample: Sequence[str]) -> Engine:
    """gigatoken where it can take the tokenizer and gives Hugging Face's ids on `sample` and on hard cases.

    The ids are the same either way, so the choice decides nothing but the time.
    """
    texts = [*_SAMPLE, *sample]
    try:
        ids, starts = Encoder(tokenizer, "gigatoken").encode(texts)
    except Exception:  # it is not installed, or refuses the tokenizer in one of its several ways
        return "tokenizers"
    expected, expected_starts = Encoder(tokenizer, "tokenizers").encode(texts)
    same = np.array_equal(ids, expected) and np.array_equal(starts, expected_starts)
    return "gigatoken" if same else "tokenizers"


def _gigatoken(tokenizer: Tokenizer) -> Any:
    import gigatoken

    settings, model = tokenizer.settings_and_model()
    # Text is data: a special token that somebody typed must stay text, so that gigatoken may not know of any.
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["special"]]
    return gigatoken.Tokenizer.from_json(tokenizer.joined(settings, model)).backend
