"""Perplexities as Hugging Face's guide, Megatron-LM and lm-evaluation-harness compute them, and by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.corpora import Corpus, Document, open_corpus
from jaxgpt.evaluate.intervals import ratio_interval
from jaxgpt.evaluate.protocols import measure
from jaxgpt.evaluate.scoring import JaxScorer, Scores, Text
from jaxgpt.train.models import load_model

ARTICLES = "\n".join(
    [
        " ",
        " = Valkyria Chronicles III = ",
        " ",
        ' Senjō no Valkyria 3 : <unk> Chronicles ( Japanese : lit . " of the Battlefield 3 " ) , is a role @-@',
        " playing game . It sold 1 @,@ 000 copies at 2 @.@ 5 ° N each .",
        " ",
        " = = Gameplay = = ",
        " ",
        " As with previous games , the player 's squad moves in turns .",
        " ",
        " = Robert Boulter = ",
        " ",
        " Robert <unk> is an English film , television and theatre actor ; he had a role in the play Herons ' plot .",
        "",
    ]
)


@pytest.fixture(scope="module")
def scorer(sep_run) -> JaxScorer:
    model = load_model(sep_run.hf)
    return JaxScorer(model.cfg, model.params)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("gpt2")


@pytest.fixture(scope="module")
def torch_model(sep_run) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(sep_run.hf).eval()


@pytest.fixture(scope="module")
def wikitext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("wikitext") / "wiki.test.raw"
    file.write_text(3 * ARTICLES)
    return file


@pytest.mark.parametrize(("context", "stride"), [(61, 61), (61, 16), (30, 7)])
def test_token_is_the_loop_of_hugging_faces_guide(
    scorer: JaxScorer, tokenizer: Tokenizer, torch_model, wikitext: Path, context: int, stride: int
) -> None:
    (ours,) = measure(scorer, tokenizer, open_corpus(f"wikitext2:{wikitext}"), ["token"], context, stride)
    lines = [line if line.strip() else "" for line in wikitext.read_text().splitlines(keepends=True)]
    ids = torch.tensor([tokenizer.encode("\n\n".join(lines))])
    nll, tokens, done = 0.0, 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + context, ids.size(1))
        window, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : done - end] = -100
        with torch.inference_mode():
            loss = float(torch_model(window, labels=labels).loss)
        if counted := int((labels[:, 1:] != -100).sum()):
            nll, tokens = nll + loss * counted, tokens + counted
        done = end
        if end == ids.size(1):
            break
    assert ours.tokens == tokens
    assert ours.value == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    assert ours.protocol == f"token[context={context},stride={stride}]"
    assert ours.units == "documents"
    assert ours.low < ours.value < ours.high


def test_word_and_bits_are_those_of_lm_evaluation_harness(
    scorer: JaxScorer, tokenizer: Tokenizer, torch_model, wikitext: Path, sep_run, tmp_path: Path
) -> None:
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer
    from transformers import PreTrainedTokenizerFast

    corpus = open_corpus(f"wikitext2:{wikitext}")
    pages = tmp_path / "pages.jsonl"
    pages.write_text("".join(json.dumps({"page": document.text}) + "\n" for document in corpus.documents))
    task = ConfigurableTask(
        config={
            "task": "wikitext",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(pages)}},
            "output_type": "loglikelihood_rolling",
            "test_split": "test",
            "doc_to_text": "",
            "doc_to_target": wikitext_detokenizer,
            "process_results": process_results,
            "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        }
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, eos_token="<|endoftext|>")
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=torch_model, tokenizer=fast, batch_size=1, max_length=61, device="cpu"),
        tasks=[task],
        bootstrap_iters=0,
    )["results"]["wikitext"]
    word, bits = measure(scorer, tokenizer, corpus, ["word", "bits_per_byte"], 61, 61)
    assert len(corpus.documents) == 6
    assert word.value == pytest.approx(theirs["word_perplexity,none"], rel=1e-4)
    assert bits.value == pytest.approx(theirs["bits_per_byte,none"], rel=1e-4)
    assert word.low < word.value < word.high


@pytest.mark.parametrize("stride", [61, 20])
def test_adjusted_is_megatrons(
    scorer: JaxScorer, torch_model: GPT2LMHeadModel, tokenizer: Tokenizer, wikitext: Path, stride: int
) -> None:
    """Its samples: 61 inputs and their targets; of every one but the first the last `stride` targets count."""
    corpus = open_corpus(f"wikitext103:{wikitext}")
    (ours,) = measure(scorer, tokenizer, corpus, ["adjusted"], 61, stride)
    original = wikitext.read_text()
    ids = tokenizer.encode(corpus.detokenize(original))
    nll, counted = 0.0, 0
    for begin in range(0, len(ids) - 1, stride):
        sample = torch.tensor(ids[begin : begin + 62])
        if counted == len(ids) - 1:
            break
        with torch.inference_mode():
            logits = torch_model(sample[None, :-1]).logits[0].double()
        each = torch.nn.functional.cross_entropy(logits, sample[1:], reduction="none")
        new = each[0 if begin == 0 else 61 - stride :]
        nll, counted = nll + float(new.sum()), counted + len(new)
    assert counted == len(ids) - 1 == ours.tokens
    ratio = (len(ids) - 1) / (len(original.strip().split(" ")) - 1)
    assert ours.nll_sum == pytest.approx(nll, rel=1e-5)
    assert ours.value == pytest.approx(math.exp(nll / counted * ratio), rel=1e-4)
    assert ours.value == pytest.approx(math.exp(ours.nll_sum / ours.words), rel=1e-9)


def test_what_there_is_none_of_is_no_average(scorer: JaxScorer, tokenizer: Tokenizer) -> None:
    corpus = Corpus("x", "antidisestablishmentarianism", (Document("antidisestablishmentarianism", ("a",)),))
    with pytest.raises(UserError, match=r"adjusted\[context=61,stride=61\] is an average over what the data have 0 of"):
        measure(scorer, tokenizer, corpus, ["adjusted"], 61, 61)


class Uniform:
    """Each of 50257 tokens is as likely as any other."""

    context = 12

    def score(self, texts: list[Text]):
        for number, text in enumerate(texts):
            n = len(text.ids) - text.first
            yield number, Scores(np.full(n, math.log(50257), np.float32), np.zeros(n, bool))


def test_a_uniform_model_by_hand(tokenizer: Tokenizer) -> None:
    corpus = Corpus("x", "a b c\n\nd e", (Document("a b c", ("a b c",)), Document("d e", ("d e",))))
    token, word, bits = measure(Uniform(), tokenizer, corpus, ["token", "word", "bits_per_byte"], 11, 11)
    assert token.value == pytest.approx(50257, rel=1e-5)
    assert token.tokens == len(tokenizer.encode("a b c\n\nd e")) - 1
    assert (word.tokens, word.words, word.bytes) == (5, 5, 8)
    assert word.value == pytest.approx(50257, rel=1e-5)
    assert bits.value == pytest.approx(5 * math.log2(50257) / 8, rel=1e-6)
    assert token.low == pytest.approx(token.value)  # every document says the same


def test_documents_and_windows_are_the_units(scorer: JaxScorer, tokenizer: Tokenizer) -> None:
    text = "one two three four " * 40
    one = Corpus("x", text, (Document(text, (text,)),))
    for found in measure(scorer, tokenizer, one, ["token", "word"], 30, 30):
        assert found.units == "windows"
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("protocols", "text", "message"),
    [
        (["words"], "a b", r"--protocol words is unknown; the protocols are token, word"),
        (["token"], "a", r"has 1 tokens; two are the least"),
    ],
)
def test_what_can_t_be_measured(
    scorer: JaxScorer, tokenizer: Tokenizer, protocols: list[str], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        measure(scorer, tokenizer, Corpus("x", text, (Document(text, (text,)),)), protocols, 61, 61)


def test_intervals_cover() -> None:
    """Of 200 samples of 60 units about 95 % have the true ratio in their interval."""
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        sizes = random.integers(1, 40, 60).astype(float)
        nll = sizes * 3.0 + random.normal(size=60) * np.sqrt(sizes) * 2.0
        low, high = ratio_interval(nll, sizes)
        covered += low <= 3.0 <= high
    assert 180 <= covered <= 198


def test_one_unit_has_no_interval() -> None:
    assert ratio_interval(np.array([1.0]), np.array([2.0])) is None
