"""The words and n-grams of texts as 64-bit hashes, the same in every process and on every machine.

A word is a run of letters, digits and underscores, in lower case: two texts that differ in punctuation, white space or
case only have the same words.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from jaxgpt.data.shuffle import mix

PIECE_CHARS = 1 << 20
_WORDS_AT_ONCE = 1 << 16
_WORD = re.compile(r"\w+")
_GAP = re.compile(r"\W")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of about PIECE_CHARS characters, cut between words: Python needs some 60 bytes per word."""
    start = 0
    while len(text) - start > PIECE_CHARS and (gap := _GAP.search(text, start + PIECE_CHARS)):
        yield text[start : gap.start()]
        start = gap.start()
    yield text[start:]


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64 (w,) of all texts' words, offsets int64 (len(texts) + 1,), where each text's begin, then w)."""
    counts = np.zeros(len(texts) + 1, np.int64)
    hashes: list[np.ndarray] = []
    waiting: list[str] = []
    for number, text in enumerate(texts, 1):
        for piece in pieces(text):
            found = words(piece)
            counts[number] += len(found)
            waiting += found
            if len(waiting) > _WORDS_AT_ONCE:
                hashes.append(_hashed(waiting))
                waiting = []
    return np.concatenate([*hashes, _hashed(waiting)]), np.cumsum(counts)


def _hashed(found: list[str]) -> np.ndarray:
    from rensa import RMinHash

    return np.array(RMinHash.hash_token_sets([found])[0], np.uint64)


def ngrams(hashes: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of every n words in a row, none across two texts; a text of fewer than n words has none.

    hashes (w,) and offsets (m + 1,) are those of `word_hashes`; returns such a pair for the n-grams.
    """
    counts = np.maximum(np.diff(offsets) - n + 1, 0)
    ends = np.concatenate([[0], np.cumsum(counts)])
    first = np.arange(ends[-1]) + np.repeat(offsets[:-1] - ends[:-1], counts)
    grams = mix(hashes[first])
    for later in range(1, n):
        grams = mix(grams + hashes[first + later])
    return grams, ends
