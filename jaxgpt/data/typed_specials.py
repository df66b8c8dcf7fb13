"""Text that looks like a special token stays text, whatever the tokenizer's model would make of it."""

import re
from collections.abc import Iterable
from itertools import pairwise

import tokenizers


def keep_as_text(backend: tokenizers.Tokenizer, tokens: Iterable[str]) -> None:
    """Changes `backend` so that encoding the text of one of `tokens` never gives that token's id.

    A Unigram model finds `</s>` in a text like any other piece of its vocabulary. So the text is parted within the
    token before the model sees it: between two characters that no piece joins and that are not both unknown, where
    there are such, because then all ids are the same as without the parting. Where nothing is wrong nothing changes.
    """
    encoded = {token: backend.encode(token, add_special_tokens=False).ids for token in tokens if len(token) > 1}
    wrong = [token for token, ids in encoded.items() if backend.token_to_id(token) in ids]
    if not wrong:
        return
    pieces = backend.get_vocab(with_added_tokens=False).keys() - set(wrong)
    joined = {pair for piece in pieces for pair in pairwise(piece)}
    pattern = "|".join(_cut(token, pieces, joined) for token in wrong)
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "merged_with_previous")
    before = backend.pre_tokenizer
    backend.pre_tokenizer = split if before is None else tokenizers.pre_tokenizers.Sequence([before, split])


def _cut(token: str, pieces: set[str], joined: set[tuple[str, str]]) -> str:
    """A pattern for the character of `token` after which it is parted."""
    good = [
        at
        for at, pair in enumerate(pairwise(token), start=1)
        if pair not in joined and (pair[0] in pieces or pair[1] in pieces)
    ]
    at = good[0] if good else 1
    before = f"(?<={re.escape(token[: at - 1])})" if at > 1 else ""
    return f"{before}{re.escape(token[at - 1])}(?={re.escape(token[at:])})"
