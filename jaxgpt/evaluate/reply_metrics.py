"""How generated replies compare with those that people gave, and how varied they are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.evaluate.bleu import Tokenization, bleu, tokenizer
from jaxgpt.evaluate.meteor import meteor_without_synonyms
from jaxgpt.evaluate.ngrams import count_ngrams, distinct, entropy
from jaxgpt.evaluate.nist import nist


@dataclass(frozen=True)
class ReplyMetrics:
    """Figures of all replies together; where there are several, the first is of single tokens, then pairs, and so on.

    bleu: BLEU-1 to 4, 0 to 100; bleu_4_low, bleu_4_high: 95 % interval over replies, None for a single reply;
    bleu_signature: sacrebleu's, to quote with it. nist, nist_mteval: NIST-1 to 5 in bits, as nltk and as mteval-v14
    compute it; they differ where a reply has several references. meteor_without_synonyms: 0 to 1. entropy: Entropy-1
    to 4, nats; distinct: Dist-1 and 2, 0 to 1; average_length: in tokens. tokenize: what a token is, in all figures.

    Case counts in all but METEOR. mteval, and so DialoGPT, ignores it: for that, give text in lower case.
    """

    replies: int
    tokenize: Tokenization
    bleu: tuple[float, ...]
    bleu_4_low: float | None
    bleu_4_high: float | None
    bleu_signature: str
    nist: tuple[float, ...]
    nist_mteval: tuple[float, ...]
    meteor_without_synonyms: float
    entropy: tuple[float, ...]
    distinct: tuple[float, ...]
    average_length: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_replies(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: Tokenization = "13a"
) -> ReplyMetrics:
    """hypotheses (replies,), also empty ones; references: one or more for each. Figures do not depend on their order.

    tokenize: `13a`, the rules of mteval-v14 for running text, or `none` for text whose tokens have spaces between them;
    entropy, distinct and average_length of such text are DialoGPT's. UserError where there is nothing to measure, the
    numbers of hypotheses and lists of references differ, or a reply has no reference with a token.
    """
    if not hypotheses and not references:
        raise UserError("there are 0 hypotheses and 0 lists of references; give at least one reply and its references")
    if len(hypotheses) != len(references):
        raise UserError(
            f"there are {len(hypotheses)} hypotheses and {len(references)} lists of references; give one list for each "
            "hypothesis, in the same order"
        )
    split = tokenizer(tokenize)
    tokens = [split(hypothesis) for hypothesis in hypotheses]
    tokens_of_references = [[split(reference) for reference in own] for own in references]
    for number, own in enumerate(tokens_of_references, 1):
        if not any(own):
            raise UserError(
                f"reply {number} of {len(hypotheses)} has no reference with text in it; give it one, or leave the "
                "reply out on both sides"
            )
    by_bleu, by_nist = bleu(hypotheses, references, tokenize), nist(tokens, tokens_of_references)
    counts = [count_ngrams(tokens, order) for order in range(1, 5)]
    return ReplyMetrics(
        replies=len(tokens),
        tokenize=tokenize,
        bleu=by_bleu.by_order,
        bleu_4_low=by_bleu.low,
        bleu_4_high=by_bleu.high,
        bleu_signature=by_bleu.signature,
        nist=by_nist.nltk,
        nist_mteval=by_nist.mteval,
        meteor_without_synonyms=meteor_without_synonyms(tokens, tokens_of_references),
        entropy=tuple(map(entropy, counts)),
        distinct=tuple(map(distinct, counts[:2])),
        average_length=sum(map(len, tokens)) / len(tokens),
    )
