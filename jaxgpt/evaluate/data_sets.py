"""Several data sets of any kinds, read once and measured with each of several models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxgpt.data.dialogue import Conversation
from jaxgpt.evaluate.corpora import Corpus, open_corpus
from jaxgpt.evaluate.lambada import as_texts, measure_lambada, read_passages
from jaxgpt.evaluate.lossless import altered
from jaxgpt.evaluate.measuring import (
    check_options,
    check_pages,
    format_of,
    is_dialogue,
    is_lambada,
    is_pages,
    is_text,
    on_dialogue,
    on_pages,
    on_text,
    read_conversations,
)
from jaxgpt.evaluate.options import DataOptions
from jaxgpt.evaluate.protocols import Measured
from jaxgpt.evaluate.subject import Subject


@dataclass(frozen=True)
class DataSets:
    """corpora, passages (of LAMBADA), conversations: by name; pages: how each is measured, of which much stays on disk.

    format: of all conversations, None where each model has its own.
    """

    corpora: dict[str, Corpus]
    passages: dict[str, list[str]]
    conversations: dict[str, list[Conversation]]
    pages: list[DataOptions]
    format: str | None

    @classmethod
    def read(cls, data: Sequence[str], options: DataOptions) -> "DataSets":
        """UserError where data can't be read, or an option is of none of them."""
        check_options(options, data)
        return cls(
            {spec: open_corpus(spec, options.text_field, options.separator) for spec in data if is_text(spec)},
            {spec: read_passages(spec) for spec in data if is_lambada(spec)},
            {spec: read_conversations(replace(options, data=spec)) for spec in data if is_dialogue(spec)},
            [replace(options, data=spec) for spec in data if is_pages(spec)],
            options.format,
        )

    def check(self, subject: Subject) -> Iterator[str]:
        """What should be said of the model's figures, a sentence each; UserError where data do not fit the model."""
        for options in self.pages:
            check_pages(subject, options)
        if self.conversations:
            format_of(subject.name, subject.model, self.format)
        for passages in self.passages.values():
            as_texts(subject.tokenizer, passages, subject.scorer.context - 1)
        for corpus in self.corpora.values():
            yield from filter(None, [altered(subject.name, subject.tokenizer, corpus)])

    def measure(self, subject: Subject, options: DataOptions) -> dict[str, Sequence[Measured]]:
        """The figures of each data set. options: of texts."""
        figures: dict[str, Sequence[Measured]] = {}
        for spec, corpus in self.corpora.items():
            figures[spec] = on_text(subject, corpus, options)
        for spec, passages in self.passages.items():
            figures[spec] = measure_lambada(subject.scorer, subject.tokenizer, passages)
        for spec, conversations in self.conversations.items():
            dialogue_format = format_of(subject.name, subject.model, self.format)
            figures[spec] = on_dialogue(subject, dialogue_format, conversations).figures
        for pages in self.pages:
            figures[pages.data] = on_pages(subject, pages).figures
        return figures
