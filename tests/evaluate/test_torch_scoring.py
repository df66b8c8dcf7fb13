"""What PyTorch scores must fit into memory, however long the context that a model claims."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jaxgpt.evaluate import torch_scoring
from jaxgpt.evaluate.scoring import Text
from jaxgpt.evaluate.torch_scoring import TorchScorer

VOCABULARY = 97


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=131_072,
        initializer_range=0.5,
    )
    LlamaForCausalLM(cfg).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_very_long_context_is_not_used(folder: Path) -> None:
    assert TorchScorer(str(folder)).context == 8192 + 1


def test_losses_in_pieces_are_those_of_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [Text(random.integers(0, VOCABULARY, 12), first) for first in (1, 2, 8, 11)]  # 11, 10, 4 and 1 predicted
    scorer = TorchScorer(str(folder))
    whole = dict(scorer.score(texts))
    longest, exact = [0], torch.nn.functional.cross_entropy

    def noted(logits: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        longest[0] = max(longest[0], len(logits))
        return exact(logits, targets, reduction=reduction)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", noted)
    monkeypatch.setattr(torch_scoring, "_PREDICTED_AT_ONCE", 4)
    pieces = dict(scorer.score(texts))
    assert longest == [4]
    for number, text in enumerate(texts):
        assert len(pieces[number].nll) == len(text.ids) - text.first
        np.testing.assert_allclose(pieces[number].nll, whole[number].nll, rtol=1e-5)
        np.testing.assert_array_equal(pieces[number].likeliest, whole[number].likeliest)
