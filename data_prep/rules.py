"""What a text can be tested for, and the list of blocked words."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data_prep.words import PIECE_CHARS, ngrams, pieces, word_hashes, words
from jaxgpt.errors import UserError

_WWW = re.compile(r"\b[wW]{3}\.\w")
_BRACKET = re.compile(r"[()\[\]]")
# Possessive, so that a word is never tried again shorter.
_WORD_THREE_TIMES = re.compile(r"(?<!\S)(\S++)\s++\1\s++\1(?!\S)")
_SPACED_WORD = re.compile(r"\S+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


Rule = Callable[[str], object]  # true for a text that breaks it


def has_url(text: str) -> bool:
    """`://` or `www.` with something behind it."""
    return "://" in text or _WWW.search(text) is not None


def has_brackets(text: str) -> bool:
    """A round or square bracket."""
    return _BRACKET.search(text) is not None


def capitals(run: int) -> Rule:
    """`run` capital letters A to Z in a row."""
    return re.compile(f"[A-Z]{{{run}}}").search


def has_repeated_word(text: str) -> bool:
    """The same word three times in a row, between white space, case and punctuation counting."""
    return _WORD_THREE_TIMES.search(text) is not None


def long_word(chars: int) -> Rule:
    """A word of more than `chars` characters between white space."""
    return re.compile(rf"(?<!\S)\S{{{chars + 1}}}").search


def count_words(text: str) -> int:
    """Words between white space."""
    if len(text) <= PIECE_CHARS:
        return len(text.split())
    return sum(1 for _ in _SPACED_WORD.finditer(text))  # slower, but no list of all words


def repeated_share(texts: Sequence[str], n: int) -> float:
    """Share of the texts' n-grams that stood before, in [0, 1): 1 - different n-grams / n-grams; 0 without n-grams.

    The words are those of `data_prep.words`; no n-gram goes across two texts.
    """
    if sum(map(len, texts)) > PIECE_CHARS:  # as hashes, for Python needs a hundred bytes or more per n-gram
        hashes, _ = ngrams(*word_hashes(texts), n)
        return 1 - len(np.unique(hashes)) / len(hashes) if len(hashes) else 0.0
    grams = [gram for found in map(words, texts) for gram in zip(*(found[first:] for first in range(n)), strict=False)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class Blocklist:
    """Words and phrases, one per line of a UTF-8 file; case does not matter. UserError for a file that is none.

    They match whole words: `ass` does not match `class`. Between the words of a phrase any white space may stand.
    """

    def __init__(self, path: str):
        # A phrase is found by its first token.
        self._phrases: dict[str, list[tuple[str, ...]]] = {}
        for line in read_blocklist(path).decode("utf-8-sig").splitlines():
            if tokens := tuple(_TOKEN.findall(line.casefold())):
                self._phrases.setdefault(tokens[0], []).append(tokens)
        if not self._phrases:
            raise UserError(f"{path} holds no word; write one word or phrase per line, or leave out --clean.blocklist")
        self._overlap = max(len(phrase) for phrases in self._phrases.values() for phrase in phrases) - 1

    def matches(self, text: str) -> bool:
        before: list[str] = []
        for piece in pieces(text):
            tokens = before + _TOKEN.findall(piece.casefold())
            if not self._phrases.keys().isdisjoint(tokens) and self._any_phrase(tokens):
                return True
            before = tokens[max(len(tokens) - self._overlap, 0) :]
        return False

    def _any_phrase(self, tokens: list[str]) -> bool:
        return any(
            tuple(tokens[at : at + len(phrase)]) == phrase
            for at, token in enumerate(tokens)
            for phrase in self._phrases.get(token, ())
        )


def read_blocklist(path: str) -> bytes:
    """The file's content; UserError where it cannot be read or is not UTF-8."""
    try:
        content = Path(path).read_bytes()
        content.decode()
    except OSError as error:
        raise UserError(
            f"--clean.blocklist {path}: {error.strerror}; name a file of one word or phrase per line"
        ) from None
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise UserError(f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; convert the file") from None
    return content
