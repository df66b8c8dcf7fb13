"""LAMBADA: the last word of a passage that a reader of all of it can guess. Source: Paperno et al. 2016."""

import json
from collections.abc import Sequence

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.corpora import from_hub, read_text
from jaxgpt.evaluate.protocols import Measured, Sums, measured
from jaxgpt.evaluate.scoring import Scorer, Text
from jaxgpt.evaluate.windows import continuation
from jaxgpt.progress import progress_bar

NAME = "lambada"


def read_passages(spec: str) -> list[str]:
    """`lambada:FILE`, JSON Lines with the field text, or `lambada` from the hub."""
    _, colon, file = spec.partition(":")
    if not colon:
        return [row["text"] for row in from_hub(NAME, "EleutherAI/lambada_openai", "default")]
    passages = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file} line {number}: expected an object with the field text") from None
        if not isinstance(text, str):
            raise UserError(f"{file} line {number}: the field text is {json.dumps(text)[:60]}; it must be a string")
        _refuse_half_characters(text, f"{file} line {number}")
        before, _, word = text.rstrip().rpartition(" ")
        if not before.strip():
            raise UserError(f"{file} line {number}: a passage is two words or more with a space between, not {word!r}")
        passages.append(text.rstrip())
    if not passages:
        raise UserError(f"{file} holds no passage; give LAMBADA's test set as JSON Lines")
    return passages


def _refuse_half_characters(text: str, where: str) -> None:
    """JSON can write them, but no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {text[error.start : error.end]!r} is half a surrogate pair and no character; write the whole "
            "character"
        ) from None


def as_texts(tokenizer: Tokenizer, passages: Sequence[str], longest: int) -> list[Text]:
    """Each passage's last word after what is before it, of which at most `longest` tokens are kept with the word.

    UserError where a last word is no tokens, or more than fit.
    """
    whole = tokenizer.encode_batch(passages)
    before = tokenizer.encode_batch([passage.rpartition(" ")[0] for passage in passages])
    texts = []
    for number, (ids, start) in enumerate(zip(whole, before, strict=True), 1):
        if not 0 < len(ids) - len(start) <= longest:
            raise UserError(
                f"passage {number}: its last word is {len(ids) - len(start)} tokens of the tokenizer {tokenizer.name}; "
                f"1 to {longest} can be measured"
            )
        texts.append(continuation(ids[: len(start)], ids[len(start) :], longest))
    return texts


def measure_lambada(scorer: Scorer, tokenizer: Tokenizer, passages: Sequence[str]) -> list[Measured]:
    """Perplexity and accuracy of each passage's last word, as in lm-evaluation-harness' lambada_openai, and of its last
    token, as in Radford et al. 2019.

    Accuracy is the share of passages where each of the target's tokens is the likeliest, perplexity exp of the target's
    mean nll over passages. What is before the longest context that the model takes is left out.
    passages: with something before their last space. UserError as in `as_texts`.
    """
    texts = as_texts(tokenizer, passages, scorer.context - 1)
    nll, right = np.zeros((2, len(texts))), np.zeros((2, len(texts)))
    for number, scores in progress_bar(scorer.score(texts), total=len(texts), unit="passage", desc=NAME):
        nll[:, number] = scores.nll.sum(dtype=np.float64), scores.nll[-1]
        right[:, number] = scores.likeliest.all(), scores.likeliest[-1]
    each = np.ones(len(texts))
    predicted = np.array([len(text.ids) - text.first for text in texts])
    n_bytes = np.array([len(passage.rpartition(" ")[2].encode()) for passage in passages])
    found = []
    for row, (target, tokens) in enumerate((("last_word", predicted), ("last_token", each))):
        sums = Sums(nll[row], tokens, each, n_bytes, "passages")
        found.append(measured(f"perplexity[{target}]", sums, each))
        found.append(measured(f"accuracy[{target}]", sums, each, float, right[row]))
    return found
