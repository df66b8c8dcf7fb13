"""A model under measurement: a run, a GPT-2 from outside, or any causal language model of `transformers`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from jaxgpt.checks import require
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluate.scoring import JaxScorer, Scorer
from jaxgpt.model.hf_config import FILE as HF_CONFIG
from jaxgpt.model.hub import hub_folder, is_hub_name
from jaxgpt.train.models import Model, find_model, load_found
from jaxgpt.train.run import holds_run


@dataclass(frozen=True)
class Subject:
    """name: as the user gave it; model: None for one that is no GPT-2; batch_size: as asked for; step: of a run."""

    name: str
    scorer: Scorer
    tokenizer: Tokenizer
    n_parameters: int
    model: Model | None
    batch_size: int | None = None

    @property
    def step(self) -> int | None:
        return self.model.step if self.model else None


def open_subject(name: str, step: int | None, tokenizer: str | None, batch_size: int | None) -> Subject:
    """tokenizer: where the model's files have none; batch_size: windows at once, None by their length.

    UserError where there is no such model, no tokenizer for it, or one with ids that the model lacks.
    """
    require(batch_size is None or batch_size > 0, f"--batch_size is {batch_size}; it must be above 0")
    given = load_tokenizer(tokenizer) if tokenizer else None
    folder = Path(name)
    if not folder.exists() and is_hub_name(name):
        folder = hub_folder(name)
    if not holds_run(folder) and _is_other(folder):
        require(step is None, f"{name} is no run, so it has no checkpoint of step {step}; leave --step out")
        return _other(name, folder, given, batch_size)
    found = find_model(str(folder), step)
    if given and found.tokenizer and given.hash != found.tokenizer.hash:
        raise UserError(
            f"{name} has a tokenizer of its own ({found.tokenizer.hash[:12]}), which is not --tokenizer {tokenizer} "
            f"({given.hash[:12]}); leave --tokenizer out"
        )
    tokenizer_used = given or found.tokenizer
    if tokenizer_used is None:
        raise UserError(
            f"{name} has no tokenizer; put its files there, or name the one that it was trained with as --tokenizer"
        )
    found = found.cut_to(tokenizer_used.vocab_size)
    _check_vocabulary(name, found.cfg.vocab_size, tokenizer_used)
    # What was trained in bfloat16 is measured as exact as its export and as models of others are.
    found = replace(found, cfg=replace(found.cfg, dtype="float32"))
    model = load_found(found, tokenizer_used)
    scorer = JaxScorer(model.cfg, model.params, batch_size)
    return Subject(name, scorer, model.tokenizer, model.cfg.n_params, model, batch_size)


def _other(name: str, folder: Path, given: Tokenizer | None, batch_size: int | None) -> Subject:
    """A model that is no GPT-2, from its folder."""
    from jaxgpt.evaluate.torch_scoring import TorchScorer

    try:
        tokenizer = given or load_tokenizer(str(folder))
    except UserError as error:
        raise UserError(f"{error}; or name the one that the model was trained with as --tokenizer") from None
    scorer = TorchScorer(str(folder), batch_size)
    _check_vocabulary(name, scorer.vocab_size, tokenizer)
    return Subject(name, scorer, tokenizer, scorer.n_parameters, None, batch_size)


def _check_vocabulary(name: str, vocab_size: int, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{name} has a vocabulary of {vocab_size} ids, the tokenizer {tokenizer.name} one of "
            f"{tokenizer.vocab_size}; give the one that the model was trained with as --tokenizer"
        )


def _is_other(folder: Path) -> bool:
    """Whether the folder's config.json is of a kind of model that jaxgpt does not know."""
    file = folder / HF_CONFIG
    if not file.is_file():
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False  # whoever reads it next will say what is wrong
    return isinstance(content, dict) and content.get("model_type") not in (None, "gpt2")
