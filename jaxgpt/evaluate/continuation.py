"""How a model goes on from a text, for people to look at."""

from jaxgpt.evaluate.subject import Subject
from jaxgpt.evaluate.torch_scoring import TorchScorer
from jaxgpt.train.sample import sample

_SEED = 0


def continue_text(subject: Subject, prompt: str, n_new: int) -> str:
    """Up to n_new tokens after the prompt, drawn at temperature 0.9 and top-p 0.9, the same ones every time."""
    ids = subject.tokenizer.encode(prompt) or [subject.tokenizer.eos_token_id]
    if subject.model:
        new = sample(subject.model.cfg, subject.model.params, ids, [0] * len(ids), n_new, _SEED)
    else:
        assert isinstance(subject.scorer, TorchScorer)
        new = subject.scorer.draw(ids, n_new, _SEED)
    return subject.tokenizer.decode(new)
