"""PersuasionForGood: how well a model predicts what persuader and persuadee say."""

from pathlib import Path
from random import Random

from jaxgpt.data.dialogue import FORMATS, Conversation
from jaxgpt.errors import UserError
from jaxgpt.evaluate.corpora import read_items
from jaxgpt.experiments.config import PersuasionExperiment
from jaxgpt.experiments.pages import VALID
from jaxgpt.experiments.running import Outcome, Prepared, Row
from jaxgpt.experiments.splits import as_texts, check_apart
from jaxgpt.steps import run_step

_EARLIER = "9.92"  # best of ten epochs, from a model of Reddit


def prepare(cfg: PersuasionExperiment) -> Prepared:
    """UserError where a file is missing, a split would be empty, or two files have a dialogue in common."""
    if cfg.dialogues_file is None:
        train, valid = _read(cfg, cfg.train_file), _read(cfg, cfg.valid_file)
        check_apart(
            {"train": as_texts(train), "valid": as_texts(valid)},
            {"train": f"train_file {cfg.train_file}", "valid": f"valid_file {cfg.valid_file}"},
        )
    else:
        train, valid = _split(_read(cfg, cfg.dialogues_file), cfg.valid_fraction, cfg.seed)
    for name, conversations in (("train", train), ("valid", valid)):
        if not conversations:
            raise UserError(
                f"the split {name} of {cfg.raw} has 0 dialogues; give a file that has some, or another valid_fraction "
                f"than {cfg.valid_fraction}"
            )
    return Prepared(train, valid, lambda run: _measure(cfg, valid, run))


def _read(cfg: PersuasionExperiment, name: str) -> list[Conversation]:
    items = read_items(f"persuasion:{cfg.file(name)}")
    return [item for item in items if isinstance(item, Conversation) and item.turns]


def _split(
    conversations: list[Conversation], valid_fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """The order of the data within each part stays."""
    n_valid = round(len(conversations) * valid_fraction)
    held_out = set(Random(seed).sample(range(len(conversations)), n_valid))
    return (
        [talk for number, talk in enumerate(conversations) if number not in held_out],
        [talk for number, talk in enumerate(conversations) if number in held_out],
    )


def _measure(cfg: PersuasionExperiment, valid: list[Conversation], run: Path) -> Outcome:
    data = f"dialogue:{Path(cfg.output) / f'{VALID}.jsonl'}"
    found = run_step(["-m", "jaxgpt", "perplexity", "--model", str(run), "--data", data])
    figures = {figure["protocol"]: figure for figure in found["figures"]}
    context, longer = _longer_than_context(cfg, valid, run)
    report = {
        "dialogue_mean_perplexity": found["dialogue_mean"],
        "corpus_perplexity": figures["token"]["value"],
        "corpus_perplexity_interval": [figures["token"]["low"], figures["token"]["high"]],
        "cut_dialogues": longer,
        "perplexity": found,
    }
    rows = (
        Row("perplexity, mean of dialogues", f"{found['dialogue_mean']:.2f}", _EARLIER),
        Row("perplexity, all tokens together", f"{figures['token']['value']:.2f}"),
    )
    note = (
        f"{longer} of {len(valid)} dialogues are longer than the {context} tokens that the model takes at once and "
        "were cut at turns; the earlier system left such dialogues out. The checkpoint with the lowest loss on these "
        "dialogues is measured, as the earlier system quotes the best epoch on them."
    )
    return Outcome(report, rows, (note,))


def _longer_than_context(cfg: PersuasionExperiment, conversations: list[Conversation], run: Path) -> tuple[int, int]:
    """The most tokens that are measured without a cut, and how many conversations have more."""
    from jaxgpt.train.models import find_model

    model, written = find_model(str(run)), FORMATS[cfg.format]
    assert model.tokenizer is not None  # a run has that of its pages
    context, longer = model.cfg.n_positions + 1, 0  # the last token is only predicted
    for talk in conversations:
        ids = model.tokenizer.encode_batch([written.turn_text(turn) for turn in talk.turns])
        longer += len(written.join(talk, ids, model.tokenizer).ids) > context
    return context, longer
