"""The figures of generated replies as sacrebleu and nltk compute them, and by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
from nltk.translate.meteor_score import meteor_score
from nltk.translate.nist_score import corpus_nist
from sacrebleu.metrics import BLEU

from jaxgpt.errors import UserError
from jaxgpt.evaluate.reply_metrics import measure_replies

TEXT = """I i you You the the the a cat cats dog walks walked walking walk to home, home. it's don't 3.5 $20 well-known
Really?! yes yes no &amp; (maybe) happily happy happiness"""
WORDS = TEXT.split()


class NoSynonyms:
    """WordNet, where every word is unknown."""

    def synsets(self, word: str) -> list[Any]:
        return []


def random_reply(random: np.random.Generator, shortest: int = 0) -> str:
    return " ".join(random.choice(WORDS, size=random.integers(shortest, 14)))


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], list[list[str]]]:
    """150 replies, some of them empty, with one to four references, that share words and runs of words."""
    random = np.random.default_rng(7)
    hypotheses, references = list[str](), list[list[str]]()
    for _ in range(150):
        own = [random_reply(random, shortest=2) for _ in range(random.integers(1, 5))]
        begin = own[0].split()[: random.integers(0, 9)]
        hypotheses.append(" ".join([*begin, *random_reply(random).split()]))
        references.append(own)
    hypotheses[3] = hypotheses[90] = ""
    return hypotheses, references


def columns(references: list[list[str]]) -> list[list[Any]]:
    most = max(map(len, references))
    return [[own[n] if n < len(own) else None for own in references] for n in range(most)]


def as_tokens(
    corpus: tuple[list[str], list[list[str]]], tokenize: str
) -> tuple[list[list[str]], list[list[list[str]]]]:
    def split(text: str) -> list[str]:
        return BLEU(tokenize=tokenize).tokenizer(text).split()

    return [split(text) for text in corpus[0]], [[split(text) for text in own] for own in corpus[1]]


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_bleu_is_sacrebleus(corpus: tuple[list[str], list[list[str]]], tokenize: Any) -> None:
    hypotheses, references = corpus
    found = measure_replies(hypotheses, references, tokenize)
    for order, value in enumerate(found.bleu, 1):
        metric = BLEU(tokenize=tokenize, max_ngram_order=order, force=True)
        assert value == metric.corpus_score(hypotheses, columns(references)).score
    assert 5 < found.bleu[3] < found.bleu[0] < 95
    assert found.bleu_signature.startswith(f"nrefs:var|case:mixed|eff:yes|tok:{tokenize}|smooth:exp|version:")


def test_bleu_of_short_replies_counts_the_orders_that_there_are() -> None:
    found = measure_replies(["good morning", "oh yes", "no"], [["good morning"], ["oh well"], ["no"]])
    # 4 of 5 tokens, 1 of 2 pairs, and no longer n-gram in any reply.
    assert found.bleu == pytest.approx((80, *3 * [100 * math.sqrt(4 / 5 * 1 / 2)]))
    assert found.bleu_signature.startswith("nrefs:1|")


def test_interval_of_bleu_is_as_wide_as_sacrebleus(corpus: tuple[list[str], list[list[str]]]) -> None:
    hypotheses, references = corpus
    found = measure_replies(hypotheses, references)
    theirs = BLEU(force=True).corpus_score(hypotheses, columns(references), n_bootstrap=1000)
    assert found.bleu_4_low is not None
    assert found.bleu_4_high is not None
    assert found.bleu_4_low < found.bleu[3] < found.bleu_4_high
    assert (found.bleu_4_high - found.bleu_4_low) / 2 == pytest.approx(theirs._ci, rel=0.1)
    assert measure_replies(hypotheses, references) == found
    alone = measure_replies(hypotheses[:1], references[:1])
    assert (alone.bleu_4_low, alone.bleu_4_high) == (None, None)


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_nist_is_nltks(corpus: tuple[list[str], list[list[str]]], tokenize: Any) -> None:
    found = measure_replies(*corpus, tokenize)
    hypotheses, references = as_tokens(corpus, tokenize)
    theirs = [corpus_nist(references, hypotheses, n) for n in range(1, 6)]
    assert found.nist == pytest.approx(theirs, rel=1e-12)
    assert theirs[0] > 0.5


def test_nist_of_short_and_empty_replies_where_nltk_divides_by_zero() -> None:
    hypotheses, references = [["good", "day"], []], [[["good", "morning"]], [["yes"]]]
    with pytest.raises(ZeroDivisionError):
        corpus_nist(references, hypotheses, 3)
    found = measure_replies(["good day", ""], [["good morning"], ["yes"]])
    # One token of two is right, of three in all: log2 3 bits. Two tokens for three are two thirds: half of it.
    assert found.nist == pytest.approx(5 * (math.log2(3) / 2 / 2,))
    assert found.nist[:2] == pytest.approx([corpus_nist(references, hypotheses, n) for n in (1, 2)])
    assert measure_replies([""], [["yes"]]).nist == (0, 0, 0, 0, 0)


def test_nist_of_mteval_pools_references_and_averages_their_lengths() -> None:
    # Every token is one of six: log2 6 bits. "a b" has one of them in each reference, on average three long.
    found = measure_replies(["a b"], [["a x", "b y z w"]])
    penalty = math.exp(math.log(0.5) * (math.log(2 / 3) / math.log(1.5)) ** 2)
    assert penalty == pytest.approx(0.5)
    assert found.nist_mteval == pytest.approx(5 * (math.log2(6) * penalty,))
    # A second "a" is in no single reference, so one of two is right; "a" is half of all tokens: 1 bit.
    assert measure_replies(["a a"], [["a b", "a c"]]).nist_mteval[0] == pytest.approx(1 / 2)
    # nltk has one match of two, in the longer reference (both are as good), at length ratio 2 / 4.
    assert found.nist[0] == pytest.approx(
        math.log2(6) / 2 * math.exp(math.log(0.5) * (math.log(2) / math.log(1.5)) ** 2)
    )


def test_bleu_and_nist_are_those_of_the_program_mteval() -> None:
    said = ["I live in Paris, and you?", "No, I don't think so.", "it costs $3.50 in the shop"]
    answers = [
        ["I live in London, and you?", "In Paris, since 2019."],
        ["No, I don't.", "I don't think that is so."],
        ["I paid $3.50 for it in the shop.", "the shop asks 4"],
    ]
    found = measure_replies(said, answers)
    # What mteval-v14.pl prints of these with case kept (-c), cumulative scores.
    assert found.bleu == pytest.approx((95.45, 83.87, 67.51, 46.65), abs=0.006)
    assert found.nist_mteval == pytest.approx((4.4359, 4.8659, 4.9284, 4.9284, 4.9284), abs=6e-5)


def test_both_readings_of_nist_agree_on_one_reference_each(corpus: tuple[list[str], list[list[str]]]) -> None:
    found = measure_replies(corpus[0], [own[:1] for own in corpus[1]])
    assert found.nist == pytest.approx(found.nist_mteval, rel=1e-12)
    assert measure_replies(*corpus).nist_mteval[3] > measure_replies(*corpus).nist[3]


@pytest.mark.parametrize("tokenize", ["13a", "none"])
def test_meteor_is_nltks_without_synonyms(corpus: tuple[list[str], list[list[str]]], tokenize: Any) -> None:
    replies = zip(*as_tokens(corpus, tokenize), strict=True)
    theirs = [meteor_score(own, hypothesis, wordnet=NoSynonyms()) for hypothesis, own in replies]
    assert measure_replies(*corpus, tokenize).meteor_without_synonyms == pytest.approx(np.mean(theirs), rel=1e-12)
    assert theirs[3] == 0 < np.mean(theirs)


@pytest.mark.parametrize(
    ("hypothesis", "references", "score"),
    [
        ("the cat sat", ["the cat sat"], 1 - 0.5 / 27),
        ("The Cats sat", ["dogs", "the cat sat"], 1 - 0.5 / 27),
        # Two of four tokens and of three references', in one run.
        ("the cat ran home", ["the cat slept"], (1 / 3) / (0.9 * 1 / 2 + 0.1 * 2 / 3) * (1 - 0.5 / 8)),
        # All there, in two runs.
        ("sat the cat", ["the cat sat"], 1 - 0.5 * (2 / 3) ** 3),
        ("", ["the cat sat"], 0),
        ("feline", ["the cat sat"], 0),
    ],
)
def test_meteor_by_hand(hypothesis: str, references: list[str], score: float) -> None:
    assert measure_replies([hypothesis], [references]).meteor_without_synonyms == pytest.approx(score)
    twice = measure_replies([hypothesis, ""], [references, references])
    assert twice.meteor_without_synonyms == pytest.approx(score / 2)


def test_variety_by_hand() -> None:
    found = measure_replies(["a b a b", "a", ""], [["x"], ["x"], ["x"]])
    # a a a b b; ab ba ab; aba bab; abab
    assert found.entropy == pytest.approx(
        (-3 / 5 * math.log(3 / 5) - 2 / 5 * math.log(2 / 5), math.log(3) - 2 / 3 * math.log(2), math.log(2), 0)
    )
    assert found.distinct == pytest.approx((2 / 5, 2 / 3))
    assert found.average_length == pytest.approx(5 / 3)


def test_tokens_are_those_of_13a_unless_spaces_tell() -> None:
    reply = "Well, it's $3.50."
    assert measure_replies([reply], [[reply]]).average_length == len(["Well", ",", "it's", "$", "3.50", "."])
    assert measure_replies([reply], [[reply]], "none").average_length == 3


def test_empty_replies_count_and_nothing_but_empty_ones_give_zeros() -> None:
    silent = measure_replies(["", " \n"], [["yes"], ["no", "never"]])
    assert silent.replies == 2
    figures = (*silent.bleu, *silent.nist, *silent.nist_mteval, *silent.entropy, *silent.distinct)
    assert set(figures) == {0.0}
    assert (silent.meteor_without_synonyms, silent.average_length) == (0, 0)
    assert (silent.bleu_4_low, silent.bleu_4_high) == (0, 0)
    half = measure_replies(["the cat sat down", ""], [["the cat sat down"], ["oh no not again"]])
    assert half.bleu == pytest.approx(4 * (100 * math.exp(1 - 8 / 4),))


def test_the_order_of_replies_and_references_changes_nothing(corpus: tuple[list[str], list[list[str]]]) -> None:
    hypotheses, references = corpus
    one, other = measure_replies(*corpus), measure_replies(hypotheses[::-1], [own[::-1] for own in references[::-1]])
    for name in ("bleu", "nist", "nist_mteval", "meteor_without_synonyms", "entropy", "distinct", "average_length"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12), name


def test_as_json(corpus: tuple[list[str], list[list[str]]]) -> None:
    found = measure_replies(*corpus)
    read = json.loads(json.dumps(found.as_json()))
    assert read["bleu"] == list(found.bleu)
    assert (read["replies"], read["tokenize"]) == (150, "13a")
    assert len(read["nist"]) == len(read["nist_mteval"]) == 5
    assert (len(read["entropy"]), len(read["distinct"])) == (4, 2)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a", "b", "c"], [["a"], ["b"]], "3 hypotheses and 2 lists of references"),
        ([], [["a"]], "0 hypotheses and 1 lists of references"),
        ([], [], "0 hypotheses and 0 lists of references"),
        (["a", "b"], [["a"], []], "reply 2 of 2 has no reference"),
        (["a", "b"], [["", " "], ["b"]], "reply 1 of 2 has no reference with text"),
    ],
)
def test_bad_input(hypotheses: list[str], references: list[list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_replies(hypotheses, references)
