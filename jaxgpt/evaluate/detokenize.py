"""Back from the spaces and signs of tokenised test sets to text as people write it.

A model of ordinary text is surprised by "do n't" and "1 @,@ 000". Radford et al. 2019, section 3.1, undo what they can
("invertible de-tokenizers", worth 2.5 to 5 of perplexity). Each function is a list of replacements, in order.
"""

import re
from collections.abc import Callable, Sequence

Detokenize = Callable[[str], str]
Replacement = tuple[str | re.Pattern[str], str]


def _replacing(replacements: Sequence[Replacement]) -> Detokenize:
    def detokenize(text: str) -> str:
        for old, new in replacements:
            text = text.replace(old, new) if isinstance(old, str) else old.sub(new, text)
        return text

    return detokenize


def as_it_is(text: str) -> str:
    return text


_JOINED = [(" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")]
_AFTER_WORDS = [(f" {sign} ", f"{sign} ") for sign in ":;.!?,"]
_WITHIN = [
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
]
_HEADINGS = [("= = = =", "===="), ("= = =", "==="), ("= =", "==")]
_LINES = [(" \n", "\n"), ("\n ", "\n")]

# The rules of lm-evaluation-harness's task `wikitext`, and of Megatron-LM before it, so that numbers can be compared.
wikitext = _replacing(
    [
        ("s '", "s'"),
        *_JOINED,
        *_AFTER_WORDS,
        *_WITHIN,
        *_HEADINGS,
        (" ° ", "°"),
        *_LINES,
        (" N ", " 1 "),
        (" 's", "'s"),
    ]
)
# Penn Treebank as Mikolov prepared it: lower case, numbers are N, no punctuation. The rules are Megatron-LM's.
ptb = _replacing(
    [(" '", "'"), *_LINES, (" n't", "n't"), (" N ", "1 "), ("$ 1", "$1"), ("# 1", "#1")],
)
# The 1 Billion Word benchmark: Moses' tokens, one sentence a line.
one_billion_words = _replacing(
    [
        *_JOINED,
        (re.compile(r" (n't|'s|'re|'ve|'ll|'d|'m)\b"), r"\1"),
        (re.compile(r" ([.,:;!?%)\]}])"), r"\1"),
        (re.compile(r"([$#(\[{]) "), r"\1"),
        (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'),
    ]
)
