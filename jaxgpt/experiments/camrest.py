"""CamRest676: a model that plays both sides of a restaurant search, and whether its system tells what users ask for."""

from pathlib import Path

from jaxgpt.data.dialogue import Conversation
from jaxgpt.errors import UserError
from jaxgpt.evaluate.tasks.camrest import Ontology, load_ontology, measure_camrest
from jaxgpt.experiments.camrest_data import read_ardm, read_published
from jaxgpt.experiments.config import CamRestExperiment
from jaxgpt.experiments.replies import SYSTEM, generate
from jaxgpt.experiments.running import Outcome, Prepared, Row
from jaxgpt.experiments.splits import as_texts, check_apart

_EARLIER_BLEU, _EARLIER_F1 = "0.2066", "0.846"


def prepare(cfg: CamRestExperiment) -> Prepared:
    """UserError where a file is missing, has no dialogues, shares one with another, or a turn lacks a field."""
    if cfg.dialogues_file is None:
        files = {"train": cfg.train_file, "valid": cfg.valid_file, "test": cfg.test_file}
        read = {split: read_ardm(cfg.file(name)) for split, name in files.items()}
        check_apart(
            {split: as_texts(own) for split, own in read.items()},
            {split: f"{split}_file {name}" for split, name in files.items()},
        )
        train, valid, test = read.values()
    else:
        train, valid, test = read_published(cfg.file(cfg.dialogues_file), cfg.file(cfg.database_file))
        if not test:
            raise UserError(f"{cfg.file(cfg.dialogues_file)} has too few dialogues for three parts; get it again")
    ontology = load_ontology(cfg.file(cfg.ontology_file))
    return Prepared(train[: cfg.train_dialogues or None], valid, lambda run: _measure(cfg, test, ontology, run))


def _measure(cfg: CamRestExperiment, test: list[Conversation], ontology: Ontology, run: Path) -> Outcome:
    references = [[turn.text for turn in talk.turns if turn.role == SYSTEM] for talk in test]
    found = measure_camrest(generate(cfg, run, test), references, ontology)
    rows = (
        Row("BLEU, by Sequicity's formula", f"{found.bleu_sequicity:.4f}", _EARLIER_BLEU),
        Row("BLEU, sacrebleu", f"{found.bleu.by_order[-1]:.2f}"),
        Row("Success-F1", f"{found.success_f1:.3f}", _EARLIER_F1),
        Row("precision, recall of slots", f"{found.precision:.3f}, {found.recall:.3f}"),
    )
    note = (
        f"On {found.dialogues} dialogues, {found.turns} turns. The checkpoint is the one with the lowest loss on the "
        "validation dialogues; the earlier system quotes its last epoch."
    )
    return Outcome({"test_dialogues": found.dialogues, "metrics": found.as_json()}, rows, (note,))
