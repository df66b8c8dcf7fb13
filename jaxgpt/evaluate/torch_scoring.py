"""Any causal language model of `transformers`, so that models which are no GPT-2 stand in the same table."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgpt.errors import UserError
from jaxgpt.evaluate.scoring import Scores, Text
from jaxgpt.train.sample import TEMPERATURE, TOP_P

if TYPE_CHECKING:
    import torch

_TOKENS_PER_BATCH = 2048
_CONTEXT = 1024  # of models that do not say theirs
# More is not used: a model's logits are of its whole input, 4 GiB of float32 for 131,072 ids, and grow with its length.
_LONGEST_CONTEXT = 8192
_PREDICTED_AT_ONCE = 1024  # tokens
_ROUNDING = 1e-3  # of the largest logit; more is no rounding


class TorchScorer:
    """name: a folder or a hub name. Texts of one length go together; the weights are float32.

    context: as the model has it, but no more than 8,193 tokens, the last of which is only predicted.

    UserError where there is no such model, its weights are not whole, or it sees what it is to predict.
    """

    def __init__(self, name: str, batch_size: int | None = None):
        import torch
        from transformers import AutoModelForCausalLM

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
        except Exception as error:  # each kind of model, and the reader of its weights, raises what it likes
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--model {name} can't be loaded by transformers ({reason}); give a folder or hub name of a causal "
                "language model"
            ) from None
        self._model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise UserError(
                f"--model {name}: its weights lack {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}; "
                "give the whole model, one that predicts the next token"
            )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.eval().to(self._device)
        if self._looks_ahead():
            raise UserError(f"--model {name} sees the tokens that it is to predict; give a causal language model")
        cfg = self._model.config.get_text_config()  # its own, or the part of a model that also sees or hears
        # A window of n tokens has n - 1 as its input.
        own_context = int(getattr(cfg, "max_position_embeddings", _CONTEXT) or _CONTEXT)
        self.context = min(own_context, _LONGEST_CONTEXT) + 1
        self.n_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self.vocab_size = int(cfg.vocab_size)
        self._batch_size = batch_size

    def _looks_ahead(self) -> bool:
        """Whether the second token changes what follows the first. transformers loads BERT as a causal model, too."""
        import torch

        with torch.inference_mode():
            one, other = self._model(torch.tensor([[0, 0], [0, 1]], device=self._device)).logits[:, 0].float()
        return bool((one - other).abs().max() > _ROUNDING * one.abs().max())

    def score(self, texts: Sequence[Text]) -> Iterator[tuple[int, Scores]]:
        lengths: dict[int, list[int]] = {}
        for number, text in enumerate(texts):
            lengths.setdefault(len(text.ids), []).append(number)
        for length, numbers in sorted(lengths.items(), reverse=True):
            rows = self._batch_size or max(_TOKENS_PER_BATCH // length, 1)
            for begin in range(0, len(numbers), rows):
                yield from self._score(texts, numbers[begin : begin + rows])

    def _score(self, texts: Sequence[Text], numbers: list[int]) -> Iterator[tuple[int, Scores]]:
        import torch

        ids = torch.tensor(np.stack([texts[number].ids for number in numbers]), dtype=torch.long, device=self._device)
        with torch.inference_mode():
            logits = self._model(ids[:, :-1]).logits
            for row, number in enumerate(numbers):
                first = texts[number].first
                yield number, _scores(logits[row, first - 1 :], ids[row, first:])

    def draw(self, ids: Sequence[int], n_new: int, seed: int) -> list[int]:
        """Up to `n_new` ids that go on from `ids`, as far as the context reaches, drawn as `sample` draws them."""
        import torch

        longest = self.context - 1
        ids = ids[-longest // 2 :]
        torch.manual_seed(seed)
        drawn = self._model.generate(
            torch.tensor([ids], device=self._device),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self._device),
            do_sample=True,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            top_k=0,
            max_new_tokens=min(n_new, longest - len(ids)),
        )
        return [int(token) for token in drawn[0, len(ids) :]]


def _scores(logits: "torch.Tensor", targets: "torch.Tensor") -> Scores:
    """logits (n, V) and what they are to predict (n,); in pieces, as the loss makes another array of their size."""
    import torch

    pieces = zip(logits.split(_PREDICTED_AT_ONCE), targets.split(_PREDICTED_AT_ONCE), strict=True)
    nll, likeliest = [], []
    for piece, own in pieces:
        piece = piece.float()
        nll.append(torch.nn.functional.cross_entropy(piece, own, reduction="none"))
        likeliest.append(piece.max(-1).values == piece.gather(-1, own[:, None])[:, 0])
    return Scores(torch.cat(nll).cpu().numpy(), torch.cat(likeliest).cpu().numpy())
