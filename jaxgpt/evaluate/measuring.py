"""One model on one data set, whatever kinds they are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.sources.kinds import KINDS
from jaxgpt.checks import require
from jaxgpt.data.cache import page_folder
from jaxgpt.data.dialogue import FORMATS, Conversation, DialogueFormat
from jaxgpt.errors import UserError
from jaxgpt.evaluate import lambada
from jaxgpt.evaluate.corpora import STANDARD, Corpus, open_corpus, read_items
from jaxgpt.evaluate.dialogue_nll import DialogueNll, measure_dialogue
from jaxgpt.evaluate.lossless import altered
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.perplexity import Perplexity, open_pages, perplexity
from jaxgpt.evaluate.protocols import Measured, measure
from jaxgpt.evaluate.subject import Subject
from jaxgpt.train.models import Model

_DIALOGUE = ("dialogue", "chat", "dialogpt", "reddit", "multiwoz", "camrest", "persuasion")
assert set(_DIALOGUE) < set(KINDS)
DEFAULT = ("token", "word", "bits_per_byte")
_SPLIT = "valid"  # of pages
_OF_WINDOWS = ("token", "adjusted")

_FILES = tuple(kind for kind in KINDS if kind not in _DIALOGUE)
_GROUPS = {"pages": ("pages",), "dialogue": _DIALOGUE, "texts": (*STANDARD, *_FILES), "KIND:PATHS": KINDS}
# Options that not all data take, and who does. Those of KIND:PATHS, `open_sources` checks further.
_TAKERS = {
    **dict.fromkeys(("split", "cache"), "pages"),
    **dict.fromkeys(("protocol", "context", "stride"), "texts"),
    **dict.fromkeys(("text_field", "separator"), "KIND:PATHS"),
    "format": "dialogue",
}


def check_options(options: DataOptions, data: Sequence[str]) -> None:
    """UserError where an option is given that none of the data, or no protocol, has a use for."""
    default = DataOptions("")
    kinds = ["pages" if is_pages(spec) else spec.partition(":")[0] for spec in data]
    given = [name for name in _TAKERS if getattr(options, name) != getattr(default, name)]
    known = all(kind in ("pages", lambada.NAME, *STANDARD, *KINDS) for kind in kinds)
    for name in given if known else ():
        require(
            any(kind in _GROUPS[_TAKERS[name]] for kind in kinds),
            f"--{name} is of {_TAKERS[name]}, which --data {' '.join(data)} is not; leave it out",
        )
    chosen = options.protocol or DEFAULT
    for name in ("context", "stride"):
        require(
            name not in given or any(protocol in _OF_WINDOWS for protocol in chosen),
            f"--{name} is {getattr(options, name)}, but --protocol {' '.join(chosen)} has no windows to choose; "
            f"leave it out, or add {' or '.join(_OF_WINDOWS)}",
        )


def measure_on(subject: Subject, options: DataOptions) -> dict[str, Any]:
    """Everything that was measured, as JSON has it; UserError where model and data do not fit each other."""
    if is_lambada(options.data):
        passages = lambada.read_passages(options.data)
        figures = lambada.measure_lambada(subject.scorer, subject.tokenizer, passages)
        return {"passages": len(passages), "figures": [figure.as_json() for figure in figures]}
    if is_text(options.data):
        corpus = open_corpus(options.data, options.text_field, options.separator)
        figures = on_text(subject, corpus, options)
        warning = altered(subject.name, subject.tokenizer, corpus)
        return {
            "documents": len(corpus.documents),
            "figures": [figure.as_json() for figure in figures],
            "warnings": [warning] if warning else [],
        }
    if is_pages(options.data):
        return on_pages(subject, options).as_json()
    dialogue_format = format_of(subject.name, subject.model, options.format)
    return on_dialogue(subject, dialogue_format, read_conversations(options)).as_json()


def is_text(data: str) -> bool:
    """Whether it is documents, which have protocols to choose from."""
    return not is_pages(data) and not is_lambada(data) and not is_dialogue(data)


def is_dialogue(data: str) -> bool:
    return data.partition(":")[0] in _DIALOGUE


def is_lambada(data: str) -> bool:
    return data.partition(":")[0] == lambada.NAME


def on_text(subject: Subject, corpus: Corpus, options: DataOptions) -> list[Measured]:
    """By each of the protocols that were asked for."""
    context = options.context or subject.scorer.context - 1
    protocols = options.protocol or DEFAULT
    return measure(subject.scorer, subject.tokenizer, corpus, protocols, context, options.stride or context)


def on_pages(subject: Subject, options: DataOptions) -> Perplexity:
    model, folder = _pages(subject, options)
    return perplexity(model, folder, options.split or _SPLIT, subject.batch_size)


def check_pages(subject: Subject, options: DataOptions) -> None:
    """UserError where the pages do not fit the model; nothing is measured."""
    model, folder = _pages(subject, options)
    open_pages(model, folder, options.split or _SPLIT)


def read_conversations(options: DataOptions) -> list[Conversation]:
    """Those of data of a kind of dialogue."""
    items = read_items(options.data, options.text_field, options.separator)
    return [item for item in items if isinstance(item, Conversation)]


def on_dialogue(subject: Subject, written: DialogueFormat, conversations: Sequence[Conversation]) -> DialogueNll:
    """written: how the model reads turns."""
    cfg = subject.model.cfg if subject.model else None
    with_roles = cfg is not None and (cfg.use_token_types or cfg.use_role_table)
    return measure_dialogue(subject.scorer, subject.tokenizer, written, conversations, with_roles)


def format_of(name: str, model: Model | None, given: str | None) -> DialogueFormat:
    """How the model called `name` reads turns: as `given`, or as it was trained; UserError where nobody says how."""
    chosen = given or (model.dialogue_format if model else None)
    if chosen not in FORMATS:
        raise UserError(
            f"{name} does not say in which format it was trained ({chosen}); give one: --format {' | '.join(FORMATS)}"
        )
    return FORMATS[chosen]


def is_pages(data: str) -> bool:
    """Whether it is a folder that make_tfrecords.py wrote."""
    return data.startswith(("pages:", "gs://")) or Path(data).is_dir()


def _pages(subject: Subject, options: DataOptions) -> tuple[Model, Path]:
    """What is measured on pages, and where they are; those of a bucket are fetched."""
    if subject.model is None:
        raise UserError(
            f"--data {options.data}: pages hold token ids, and {subject.name} is no GPT-2; give the text itself, as "
            "text:FILE or jsonl:FILE"
        )
    return subject.model, page_folder(options.data.removeprefix("pages:"), [options.split or _SPLIT], options.cache)
