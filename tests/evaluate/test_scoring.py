"""Token by token what PyTorch computes, whatever is scored together."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from jaxgpt.evaluate.scoring import JaxScorer, Text
from jaxgpt.evaluate.torch_scoring import TorchScorer
from jaxgpt.model.gpt2 import init_params
from jaxgpt.model_config import ModelConfig
from jaxgpt.train.models import load_model


def texts(context: int) -> list[Text]:
    random = np.random.default_rng(0)
    lengths = [2, 3, 17, 32, 33, 34, context - 1, context, context, 40, context]
    firsts = [1, 2, 5, 31, 1, 33, 7, context - 1, 1, 39, 20]
    return [
        Text(random.integers(0, 50257, n).astype(np.int32), first) for n, first in zip(lengths, firsts, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_scores_are_pytorchs(sep_run, batch_size: int | None) -> None:
    check(JaxScorer(*model_of(sep_run.hf), batch_size), sep_run.hf)


def test_so_are_those_of_any_other_model(sep_run) -> None:
    check(TorchScorer(str(sep_run.hf)), sep_run.hf)
    check(TorchScorer(str(sep_run.hf), batch_size=2), sep_run.hf)


def model_of(folder: Path) -> tuple:
    model = load_model(folder)
    return model.cfg, model.params


def check(scorer, folder: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    given = texts(scorer.context)
    found = dict(scorer.score(given))
    assert sorted(found) == list(range(len(given)))
    for number, text in enumerate(given):
        ids = torch.tensor(text.ids.astype(np.int64))
        with torch.inference_mode():
            logits = model(ids[None, :-1]).logits[0, text.first - 1 :]
        nll = torch.nn.functional.cross_entropy(logits, ids[text.first :], reduction="none").numpy()
        np.testing.assert_allclose(found[number].nll, nll, rtol=2e-4, atol=2e-4)
        likeliest = (logits.argmax(-1) == ids[text.first :]).numpy()
        np.testing.assert_array_equal(found[number].likeliest, likeliest)


def test_the_likeliest_token_is_found(sep_run) -> None:
    """Random targets are hardly ever the likeliest."""
    model = GPT2LMHeadModel.from_pretrained(sep_run.hf).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        best = int(model(ids).logits[0, -1].argmax())
    text = Text(np.array([5, 6, 7, 8, best], np.int32), 3)
    for scorer in (JaxScorer(*model_of(sep_run.hf)), TorchScorer(str(sep_run.hf))):
        ((_, scores),) = scorer.score([text])
        assert scores.likeliest[-1]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 5e-3)])
def test_a_model_of_two_tokens_by_hand(dtype: str, tolerance: float) -> None:
    """Three quarters for token 0 and a quarter for token 1, whatever was before."""
    cfg = ModelConfig(vocab_size=2, n_positions=8, n_embd=4, n_layer=1, n_head=1, dtype=dtype)
    params = jax.tree.map(np.array, init_params(cfg, seed=0))
    params["ln_f"] = {"weight": np.zeros(4, np.float32), "bias": np.eye(4, dtype=np.float32)[0]}
    params["wte"]["weight"][:2, 0] = np.log([0.75, 0.25])
    given = [Text(np.array([1, 0, 0, 1, 0])), Text(np.array([0, 1, 1, 1, 1, 0, 0, 1, 1]), 5), Text(np.array([0, 1]))]
    found = dict(JaxScorer(cfg, params).score(given))
    for number, expected in enumerate(([0.75, 0.75, 0.25, 0.75], [0.75, 0.75, 0.25, 0.25], [0.25])):
        np.testing.assert_allclose(found[number].nll, -np.log(expected), rtol=tolerance)
        np.testing.assert_array_equal(found[number].likeliest, np.equal(expected, 0.75))
